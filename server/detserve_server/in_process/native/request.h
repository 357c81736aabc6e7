// One request: what it asks, and its answer, which is sent once: by respond, or with an error when Python lets go of it.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "failures.h"
#include "tensors.h"
#include "triton.h"

namespace py = pybind11;

inline uint64_t now_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

// Triton has it back when the last who holds it lets go; an array on its memory is one.
using TakenRequest = std::shared_ptr<TRITONBACKEND_Request>;

inline void give_back(TRITONBACKEND_Request* request) {
  if (PyGILState_Check()) {  // an array was the last
    py::gil_scoped_release release;
    log_failure(TRITONBACKEND_RequestRelease(request, REQUEST_RELEASE_ALL));
    return;
  }
  log_failure(TRITONBACKEND_RequestRelease(request, REQUEST_RELEASE_ALL));
}

// HTTP headers and JSON need not be UTF-8.
inline py::str text(const char* bytes) {
  PyObject* decoded = PyUnicode_DecodeUTF8(bytes, std::strlen(bytes), "replace");
  if (decoded == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(decoded);
}

// Copies memory that lies in several pieces, as a tensor's does over HTTP, from its begin to its end.
class Reader {
 public:
  explicit Reader(std::vector<std::string_view> pieces) : pieces_(std::move(pieces)) {
    for (std::string_view piece : pieces_) left_ += piece.size();
  }

  size_t left() const { return left_; }

  // The next `count` bytes, of those that are left.
  void read(char* to, size_t count) {
    left_ -= count;
    while (count > 0) {
      std::string_view& piece = pieces_[next_];
      const size_t part = std::min(count, piece.size());
      to = std::copy_n(piece.data(), part, to);
      piece.remove_prefix(part);
      count -= part;
      if (piece.empty()) ++next_;
    }
  }

 private:
  std::vector<std::string_view> pieces_;
  size_t next_ = 0;
  size_t left_ = 0;
};

class Request {
 public:
  Request(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request)
      : instance_(instance), request_(request, &give_back), since_ns_(now_ns()) {}
  Request(const Request&) = delete;

  ~Request() { finish({}, ERROR_INTERNAL, "model.py let go of a request without an answer"); }

  py::dict parameters() const {
    uint32_t count = 0;
    check(TRITONBACKEND_RequestParameterCount(open(), &count));
    py::dict found;
    for (uint32_t index = 0; index < count; ++index) {
      const char* name = nullptr;
      const void* value = nullptr;
      TRITONSERVER_ParameterType type;
      check(TRITONBACKEND_RequestParameter(open(), index, &name, &type, &value));
      switch (type) {
        case PARAMETER_STRING: found[text(name)] = text(static_cast<const char*>(value)); break;
        case PARAMETER_INT: found[text(name)] = *static_cast<const int64_t*>(value); break;
        case PARAMETER_BOOL: found[text(name)] = *static_cast<const bool*>(value); break;
        case PARAMETER_DOUBLE: found[text(name)] = *static_cast<const double*>(value); break;
        case PARAMETER_BYTES: break;  // has no place in the JSON that model.py is given
      }
    }
    return found;
  }

  uint64_t timeout_us() const {
    uint64_t timeout_us = 0;
    check(TRITONBACKEND_InferenceRequestTimeoutMicroseconds(open(), &timeout_us));
    return timeout_us;
  }

  // Whether nobody waits for the answer any more: the caller has gone, or has been answered.
  bool is_cancelled() const {
    bool cancelled = true;
    if (request_) check(TRITONBACKEND_RequestIsCancelled(open(), &cancelled));
    return cancelled;
  }

  std::vector<int64_t> input_shape(const std::string& name) const {
    const int64_t* shape = nullptr;
    uint32_t dimensions = 0;
    check(TRITONBACKEND_InputProperties(input(name), nullptr, nullptr, &shape, &dimensions, nullptr, nullptr));
    return {shape, shape + dimensions};
  }

  // The elements of a BYTES tensor: each is its length, 4 bytes little endian, and its content.
  py::list input_elements(const std::string& name) const {
    Reader reader(input_pieces(name));
    py::list elements;
    while (reader.left() > 0) {
      uint32_t length = 0;
      if (reader.left() < sizeof(length)) {
        throw py::value_error(name + ": " + std::to_string(reader.left()) + " bytes are left over behind its elements");
      }
      reader.read(reinterpret_cast<char*>(&length), sizeof(length));
      if (reader.left() < length) {
        throw py::value_error(
            name + ": element " + std::to_string(elements.size()) + " says that it has " + std::to_string(length) +
            " bytes, and " + std::to_string(reader.left()) + " are there");
      }
      PyObject* element = PyBytes_FromStringAndSize(nullptr, length);
      if (element == nullptr) throw py::error_already_set();
      reader.read(PyBytes_AS_STRING(element), length);
      elements.append(py::reinterpret_steal<py::bytes>(element));
    }
    return elements;
  }

  bool is_bytes(const std::string& name) const {
    TRITONSERVER_DataType type;
    check(TRITONBACKEND_InputProperties(input(name), nullptr, &type, nullptr, nullptr, nullptr, nullptr));
    return type == TYPE_BYTES;
  }

  // A tensor of numbers, read-only: the request's own memory, which then lives as long, or a copy of its pieces.
  py::array input_numbers(const std::string& name) const {
    TRITONSERVER_DataType type;
    uint64_t bytes = 0;
    check(TRITONBACKEND_InputProperties(input(name), nullptr, &type, nullptr, nullptr, &bytes, nullptr));
    const std::vector<int64_t> shape = input_shape(name);
    const py::dtype numpy = numpy_type(name, type);
    if (const size_t expected = size_bytes(numpy, shape); bytes != expected) {
      throw py::value_error(
          name + " has " + std::to_string(bytes) + " bytes, and its shape says " + std::to_string(expected));
    }
    const std::vector<std::string_view> pieces = input_pieces(name);
    py::array numbers;
    if (pieces.size() == 1) {
      numbers = array_on(numpy, shape, pieces[0].data(), request_);
    } else {
      numbers = py::array(numpy, shape);
      auto* to = static_cast<char*>(numbers.mutable_data());
      for (std::string_view piece : pieces) to = std::copy(piece.begin(), piece.end(), to);
    }
    numbers.attr("setflags")(py::arg("write") = false);
    return numbers;
  }

  void respond(const py::dict& outputs, int code, const std::string& error) {
    const std::vector<Tensor> answer = tensors(outputs);
    for (const Tensor& output : answer) {
      if (output.type == TYPE_INT32 || output.type == TYPE_FP32) continue;
      throw py::type_error(
          "an output is " + py::str(output.values.dtype()).cast<std::string>() + ", expected int32 or float32");
    }
    finish(answer, static_cast<TRITONSERVER_Error_Code>(code), error);
  }

 private:
  TRITONBACKEND_Request* open() const {
    if (!request_) throw TritonFailure("the request has been answered");
    return request_.get();
  }

  TRITONBACKEND_Input* input(const std::string& name) const {
    TRITONBACKEND_Input* found = nullptr;
    check(TRITONBACKEND_RequestInput(open(), name.c_str(), &found));
    return found;
  }

  // The request's own memory; one piece over gRPC.
  std::vector<std::string_view> input_pieces(const std::string& name) const {
    TRITONBACKEND_Input* given = input(name);
    uint32_t count = 0;
    check(TRITONBACKEND_InputProperties(given, nullptr, nullptr, nullptr, nullptr, nullptr, &count));
    std::vector<std::string_view> pieces;
    for (uint32_t index = 0; index < count; ++index) {
      const void* buffer = nullptr;
      uint64_t size = 0;
      TRITONSERVER_MemoryType memory = MEMORY_CPU;
      int64_t memory_id = 0;
      check(TRITONBACKEND_InputBuffer(given, index, &buffer, &size, &memory, &memory_id));
      if (memory == MEMORY_GPU) throw TritonFailure(name + " is in GPU memory, expected the CPU's");
      pieces.emplace_back(static_cast<const char*>(buffer), size);
    }
    return pieces;
  }

  bool wanted(TRITONBACKEND_Request* request, const std::string& name) const {
    uint32_t count = 0;
    check(TRITONBACKEND_RequestOutputCount(request, &count));
    for (uint32_t index = 0; index < count; ++index) {
      const char* asked = nullptr;
      check(TRITONBACKEND_RequestOutputName(request, index, &asked));
      if (name == asked) return true;
    }
    return count == 0;
  }

  void write(TRITONBACKEND_Request* request, TRITONBACKEND_Response* response, const Tensor& tensor) const {
    if (!wanted(request, tensor.name)) return;
    TRITONBACKEND_Output* output = nullptr;
    check(TRITONBACKEND_ResponseOutput(
        response, &output, tensor.name.c_str(), tensor.type, tensor.shape.data(), tensor.shape.size()));
    void* buffer = nullptr;
    TRITONSERVER_MemoryType memory = MEMORY_CPU;
    int64_t memory_id = 0;
    check(TRITONBACKEND_OutputBuffer(output, &buffer, tensor.bytes, &memory, &memory_id));
    if (memory == MEMORY_GPU) throw TritonFailure(tensor.name + " is wanted in GPU memory, which no CPU step has");
    std::memcpy(buffer, tensor.data, tensor.bytes);
  }

  // Send and let go. The GIL is held until the request is taken: whoever comes second finds it gone and does nothing.
  void finish(const std::vector<Tensor>& answer, TRITONSERVER_Error_Code code, const std::string& error) {
    TakenRequest taken = std::move(request_);
    if (!taken) return;
    py::gil_scoped_release release;
    send(taken.get(), answer, code, error);
    taken.reset();
  }

  void send(
      TRITONBACKEND_Request* request, const std::vector<Tensor>& tensors, TRITONSERVER_Error_Code code,
      std::string error) const {
    TRITONBACKEND_Response* response = nullptr;
    try {
      check(TRITONBACKEND_ResponseNew(&response, request));
      if (error.empty()) {
        for (const Tensor& tensor : tensors) write(request, response, tensor);
      }
    } catch (const std::exception& failure) {
      error = failure.what();
      code = ERROR_INTERNAL;
    }
    const bool success = error.empty();
    const uint64_t end_ns = now_ns();
    if (response != nullptr) {
      TRITONSERVER_Error* sent = success ? nullptr : TRITONSERVER_ErrorNew(code, error.c_str());
      log_failure(TRITONBACKEND_ResponseSend(response, RESPONSE_COMPLETE_FINAL, sent));
      if (sent != nullptr) TRITONSERVER_ErrorDelete(sent);
    }
    const uint64_t pictures = tensors.empty() || tensors[0].shape.empty() ? 1 : tensors[0].shape[0];
    log_failure(TRITONBACKEND_ModelInstanceReportStatistics(
        instance_, request, success, since_ns_, since_ns_, end_ns, end_ns));
    if (success) {
      log_failure(TRITONBACKEND_ModelInstanceReportBatchStatistics(
          instance_, pictures, since_ns_, since_ns_, end_ns, end_ns));
    }
  }

  TRITONBACKEND_ModelInstance* instance_;
  TakenRequest request_;
  const uint64_t since_ns_;
};
