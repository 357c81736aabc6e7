// A request to another model of this server (Triton: business logic scripting), sent and waited for.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "failures.h"
#include "tensors.h"
#include "triton.h"

namespace py = pybind11;

// That of every model here; the first that is initialized says it.
inline std::atomic<TRITONSERVER_Server*> this_server{nullptr};

struct Output {
  std::string name;
  TRITONSERVER_DataType type;
  std::vector<int64_t> shape;
  size_t bytes;
  std::unique_ptr<char[]> data;
};

// One request and its one answer. Triton calls back from threads of its own, which never need the GIL. Whoever has
// waited has the answer, and the memory of the inputs back.
class Call {
 public:
  void send(
      const std::string& model, const std::vector<Tensor>& inputs, const std::vector<std::string>& outputs,
      uint64_t timeout_us) {
    TRITONSERVER_InferenceRequest* request = nullptr;
    check(TRITONSERVER_InferenceRequestNew(&request, this_server, model.c_str(), ANY_VERSION));
    try {
      for (const Tensor& input : inputs) {
        const char* name = input.name.c_str();
        check(TRITONSERVER_InferenceRequestAddInput(
            request, name, input.type, input.shape.data(), input.shape.size()));
        check(TRITONSERVER_InferenceRequestAppendInputData(request, name, input.data, input.bytes, MEMORY_CPU, 0));
      }
      for (const std::string& output : outputs) {
        check(TRITONSERVER_InferenceRequestAddRequestedOutput(request, output.c_str()));
      }
      check(TRITONSERVER_InferenceRequestSetTimeoutMicroseconds(request, timeout_us));
      check(TRITONSERVER_InferenceRequestSetReleaseCallback(request, &released, this));
      check(TRITONSERVER_InferenceRequestSetResponseCallback(request, allocator(), this, &answered, this));
      check(TRITONSERVER_ServerInferAsync(this_server, request, nullptr));
    } catch (...) {
      TRITONSERVER_InferenceRequestDelete(request);
      throw;
    }
  }

  std::vector<Output> wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ended_ && released_; });
    if (failure_) throw *failure_;
    if (!has_answer_) throw TritonFailure("the model ended the request without an answer");
    return std::move(outputs_);
  }

 private:
  static TRITONSERVER_ResponseAllocator* allocator() {
    static TRITONSERVER_ResponseAllocator* const shared = [] {
      TRITONSERVER_ResponseAllocator* made = nullptr;
      check(TRITONSERVER_ResponseAllocatorNew(&made, &allocate, &keep, nullptr));
      return made;
    }();
    return shared;
  }

  static TRITONSERVER_Error* allocate(
      TRITONSERVER_ResponseAllocator*, const char*, size_t bytes, TRITONSERVER_MemoryType, int64_t, void* call,
      void** buffer, void** buffer_userp, TRITONSERVER_MemoryType* actual, int64_t* actual_id) {
    *buffer = *buffer_userp = nullptr;
    *actual = MEMORY_CPU;
    *actual_id = 0;
    try {
      auto* self = static_cast<Call*>(call);
      std::lock_guard lock(self->mutex_);
      self->buffers_.emplace_back(new char[bytes]);
      *buffer = self->buffers_.back().get();
      return nullptr;
    } catch (const std::exception& error) {
      return TRITONSERVER_ErrorNew(ERROR_INTERNAL, error.what());
    }
  }

  // Triton is done with a buffer, and we are not.
  static TRITONSERVER_Error* keep(
      TRITONSERVER_ResponseAllocator*, void*, void*, size_t, TRITONSERVER_MemoryType, int64_t) {
    return nullptr;
  }

  // The last of these two to come wakes who waits, before it lets go of the lock: `self` ends with the waiting.
  static void released(TRITONSERVER_InferenceRequest* request, uint32_t, void* call) {
    log_failure(TRITONSERVER_InferenceRequestDelete(request));
    auto* self = static_cast<Call*>(call);
    std::lock_guard lock(self->mutex_);
    self->released_ = true;
    if (self->ended_) self->changed_.notify_one();
  }

  static void answered(TRITONSERVER_InferenceResponse* response, uint32_t flags, void* call) {
    auto* self = static_cast<Call*>(call);
    std::lock_guard lock(self->mutex_);
    if (response != nullptr) {
      try {
        self->read(response);
      } catch (const TritonFailure& failure) {
        self->failure_ = std::make_unique<TritonFailure>(failure);
      } catch (const std::exception& error) {
        self->failure_ = std::make_unique<TritonFailure>(error.what());
      }
      log_failure(TRITONSERVER_InferenceResponseDelete(response));
    }
    self->ended_ = self->ended_ || (flags & RESPONSE_COMPLETE_FINAL) != 0;
    if (self->ended_ && self->released_) self->changed_.notify_one();
  }

  void read(TRITONSERVER_InferenceResponse* response) {
    if (TRITONSERVER_Error* error = TRITONSERVER_InferenceResponseError(response)) {
      throw TritonFailure(TRITONSERVER_ErrorMessage(error), TRITONSERVER_ErrorCode(error));
    }
    if (has_answer_) throw TritonFailure("the model answered more than once, expected one answer");
    has_answer_ = true;
    uint32_t count = 0;
    check(TRITONSERVER_InferenceResponseOutputCount(response, &count));
    for (uint32_t index = 0; index < count; ++index) {
      const char* name = nullptr;
      TRITONSERVER_DataType type;
      const int64_t* shape = nullptr;
      uint64_t dimensions = 0;
      const void* data = nullptr;
      size_t bytes = 0;
      TRITONSERVER_MemoryType memory;
      int64_t memory_id = 0;
      void* userp = nullptr;
      check(TRITONSERVER_InferenceResponseOutput(
          response, index, &name, &type, &shape, &dimensions, &data, &bytes, &memory, &memory_id, &userp));
      outputs_.push_back({name, type, {shape, shape + dimensions}, bytes, bytes == 0 ? nullptr : taken(data)});
    }
  }

  // The buffer of ours that Triton has written.
  std::unique_ptr<char[]> taken(const void* data) {
    for (std::unique_ptr<char[]>& buffer : buffers_) {
      if (buffer && buffer.get() == data) return std::move(buffer);
    }
    throw TritonFailure("an output lies in memory that was not given to the model");
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false, released_ = false, has_answer_ = false;
  std::vector<std::unique_ptr<char[]>> buffers_;
  std::vector<Output> outputs_;
  std::unique_ptr<TritonFailure> failure_;
};

inline py::array array_of(Output output) {
  const py::dtype type = numpy_type(output.name, output.type);
  if (const size_t expected = size_bytes(type, output.shape); output.bytes != expected) {
    throw TritonFailure(
        output.name + " has " + std::to_string(output.bytes) + " bytes, and its shape says " +
        std::to_string(expected));
  }
  const void* data = output.data.get();
  return array_on(type, output.shape, data, std::move(output.data));
}

// The outputs, in memory that they own; or None and what went wrong, with the code that Triton or the model gave it.
inline py::tuple infer(
    const std::string& model, const py::dict& inputs, const std::vector<std::string>& outputs, uint64_t timeout_us) {
  const std::vector<Tensor> given = tensors(inputs);
  try {
    std::vector<Output> answer;
    {
      py::gil_scoped_release release;
      Call call;
      call.send(model, given, outputs, timeout_us);
      answer = call.wait();
    }
    py::dict arrays;
    for (Output& output : answer) {
      const std::string name = output.name;
      arrays[py::str(name)] = array_of(std::move(output));
    }
    return py::make_tuple(arrays, 0, "");
  } catch (const TritonFailure& failure) {
    return py::make_tuple(py::none(), static_cast<int>(failure.code), failure.what());
  }
}

// Raises while the server loads the models that it starts with, as Triton's python backend does.
inline bool model_is_ready(const std::string& model) {
  py::gil_scoped_release release;
  bool ready = false;
  check(TRITONSERVER_ServerModelIsReady(this_server, model.c_str(), ANY_VERSION, &ready));
  return ready;
}
