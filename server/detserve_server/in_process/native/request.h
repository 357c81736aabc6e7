// One request: what it asks, and its answer, which is sent once: by respond, or with an error when Python lets go of it.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "failures.h"
#include "triton.h"

namespace py = pybind11;

inline uint64_t now_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

struct OutputTensor {
  std::string name;
  py::array values;
  TRITONSERVER_DataType type;
  const void* data;
  size_t bytes;
  std::vector<int64_t> shape;
};

inline TRITONSERVER_DataType triton_type(const py::array& values) {
  if (values.dtype().is(py::dtype::of<int32_t>())) return TYPE_INT32;
  if (values.dtype().is(py::dtype::of<float>())) return TYPE_FP32;
  throw py::type_error("an output is " + py::str(values.dtype()).cast<std::string>() + ", expected int32 or float32");
}

inline OutputTensor output_tensor(const std::string& name, const py::array& given) {
  py::array values = py::array::ensure(given, py::array::c_style);
  if (!values) throw std::bad_alloc();
  std::vector<int64_t> shape(values.shape(), values.shape() + values.ndim());
  return {name, values, triton_type(values), values.data(), static_cast<size_t>(values.nbytes()), std::move(shape)};
}

// HTTP headers and JSON need not be UTF-8.
inline py::str text(const char* bytes) {
  PyObject* decoded = PyUnicode_DecodeUTF8(bytes, std::strlen(bytes), "replace");
  if (decoded == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(decoded);
}

class Request {
 public:
  Request(TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request* request)
      : instance_(instance), request_(request), since_ns_(now_ns()) {}
  Request(const Request&) = delete;

  ~Request() {
    if (request_.load() == nullptr) return;
    py::gil_scoped_release release;
    finish({}, ERROR_INTERNAL, "model.py let go of a request without an answer");
  }

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

  std::vector<int64_t> input_shape(const std::string& name) {
    const int64_t* shape = nullptr;
    uint32_t dimensions = 0;
    check(TRITONBACKEND_InputProperties(input(name), nullptr, nullptr, &shape, &dimensions, nullptr, nullptr));
    return {shape, shape + dimensions};
  }

  // The elements of a BYTES tensor: each is its length, 4 bytes little endian, and its content.
  py::list input_elements(const std::string& name) {
    std::string storage;
    std::string_view left = input_bytes(name, storage);
    py::list elements;
    while (!left.empty()) {
      uint32_t length = 0;
      if (left.size() < sizeof(length)) {
        throw py::value_error(name + ": " + std::to_string(left.size()) + " bytes are left over behind its elements");
      }
      std::memcpy(&length, left.data(), sizeof(length));
      left.remove_prefix(sizeof(length));
      if (left.size() < length) {
        throw py::value_error(
            name + ": element " + std::to_string(elements.size()) + " says that it has " + std::to_string(length) +
            " bytes, and " + std::to_string(left.size()) + " are there");
      }
      elements.append(py::bytes(left.data(), length));
      left.remove_prefix(length);
    }
    return elements;
  }

  void respond(const py::dict& outputs, int code, const std::string& error) {
    std::vector<OutputTensor> tensors;
    for (const auto& [name, values] : outputs) {
      tensors.push_back(output_tensor(name.cast<std::string>(), values.cast<py::array>()));
    }
    py::gil_scoped_release release;
    finish(tensors, static_cast<TRITONSERVER_ErrorCode>(code), error);
  }

 private:
  TRITONBACKEND_Request* open() const {
    TRITONBACKEND_Request* request = request_.load();
    if (request == nullptr) throw TritonFailure("the request has been answered");
    return request;
  }

  TRITONBACKEND_Input* input(const std::string& name) const {
    TRITONBACKEND_Input* found = nullptr;
    check(TRITONBACKEND_RequestInput(open(), name.c_str(), &found));
    return found;
  }

  // The request's own memory where it is in one piece, as over gRPC; otherwise joined in `storage`.
  std::string_view input_bytes(const std::string& name, std::string& storage) const {
    TRITONBACKEND_Input* given = input(name);
    uint64_t bytes = 0;
    uint32_t buffers = 0;
    check(TRITONBACKEND_InputProperties(given, nullptr, nullptr, nullptr, nullptr, &bytes, &buffers));
    if (buffers != 1) storage.reserve(bytes);
    for (uint32_t index = 0; index < buffers; ++index) {
      const void* buffer = nullptr;
      uint64_t size = 0;
      TRITONSERVER_MemoryType memory = MEMORY_CPU;
      int64_t memory_id = 0;
      check(TRITONBACKEND_InputBuffer(given, index, &buffer, &size, &memory, &memory_id));
      if (memory == MEMORY_GPU) throw TritonFailure(name + " is in GPU memory, expected the CPU's");
      if (buffers == 1) return {static_cast<const char*>(buffer), size};
      storage.append(static_cast<const char*>(buffer), size);
    }
    return storage;
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

  void write(TRITONBACKEND_Request* request, TRITONBACKEND_Response* response, const OutputTensor& tensor) const {
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

  // Send and release; called without the GIL. Whoever comes second finds the request gone and does nothing.
  void finish(const std::vector<OutputTensor>& tensors, TRITONSERVER_ErrorCode code, std::string error) {
    TRITONBACKEND_Request* request = request_.exchange(nullptr);
    if (request == nullptr) return;
    TRITONBACKEND_Response* response = nullptr;
    try {
      check(TRITONBACKEND_ResponseNew(&response, request));
      if (error.empty()) {
        for (const OutputTensor& tensor : tensors) write(request, response, tensor);
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
    log_failure(TRITONBACKEND_RequestRelease(request, REQUEST_RELEASE_ALL));
  }

  static void log_failure(TRITONSERVER_Error* error) {
    try {
      check(error);
    } catch (const TritonFailure& failure) {
      write_log(LOG_ERROR, failure.what());
    }
  }

  TRITONBACKEND_ModelInstance* instance_;
  std::atomic<TRITONBACKEND_Request*> request_;
  const uint64_t since_ns_;
};
