// A Triton backend that runs a detserve pipeline (model.py) inside the server's own process.
//
// Triton's python backend runs every model in a process of its own: each request is copied into shared memory and
// handed over, each answer handed back. Here one interpreter is embedded, and a request's thread calls model.py.
// Python sees this file as the module _detserve_triton; triton_python_backend_utils.py puts the python backend's
// names on it. A request is answered once: by Request::respond, or with an error when Python lets go of it.
#include <dlfcn.h>
#include <pybind11/embed.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "triton.h"

namespace py = pybind11;

namespace {

struct TritonFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void check(TRITONSERVER_Error* error) {
  if (error == nullptr) return;
  std::string text = TRITONSERVER_ErrorMessage(error);
  TRITONSERVER_ErrorDelete(error);
  throw TritonFailure(text);
}

void write_log(int level, const std::string& text) {
  TRITONSERVER_LogMessage(static_cast<TRITONSERVER_LogLevel>(level), "model.py", 0, text.c_str());
}

uint64_t now_ns() {
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

TRITONSERVER_DataType triton_type(const py::array& values) {
  if (values.dtype().is(py::dtype::of<int32_t>())) return TYPE_INT32;
  if (values.dtype().is(py::dtype::of<float>())) return TYPE_FP32;
  throw py::type_error("an output is " + py::str(values.dtype()).cast<std::string>() + ", expected int32 or float32");
}

OutputTensor output_tensor(const std::string& name, const py::array& given) {
  py::array values = py::array::ensure(given, py::array::c_style);
  if (!values) throw std::bad_alloc();
  std::vector<int64_t> shape(values.shape(), values.shape() + values.ndim());
  return {name, values, triton_type(values), values.data(), static_cast<size_t>(values.nbytes()), std::move(shape)};
}

// HTTP headers and JSON need not be UTF-8.
py::str text(const char* bytes) {
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
      if (left.size() < sizeof(length)) throw py::value_error(name + " ends within the length of an element");
      std::memcpy(&length, left.data(), sizeof(length));
      left.remove_prefix(sizeof(length));
      if (left.size() < length) throw py::value_error(name + " ends within an element");
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

// One metric with its labels, in the family of its name; both live as long as the server.
class Metric {
 public:
  Metric(const std::string& name, const std::string& description, bool counter, const py::dict& labels)
      : counter_(counter) {
    TRITONSERVER_MetricFamily* family = nullptr;
    check(TRITONSERVER_MetricFamilyNew(
        &family, counter ? METRIC_COUNTER : METRIC_GAUGE, name.c_str(), description.c_str()));
    std::vector<const TRITONSERVER_Parameter*> parameters;
    for (const auto& [label, value] : labels) {
      parameters.push_back(TRITONSERVER_ParameterNew(
          label.cast<std::string>().c_str(), PARAMETER_STRING, value.cast<std::string>().c_str()));
    }
    TRITONSERVER_Error* error = TRITONSERVER_MetricNew(&metric_, family, parameters.data(), parameters.size());
    for (const TRITONSERVER_Parameter* parameter : parameters) {
      TRITONSERVER_ParameterDelete(const_cast<TRITONSERVER_Parameter*>(parameter));
    }
    check(error);
  }

  void write(double value) {
    check(counter_ ? TRITONSERVER_MetricIncrement(metric_, value) : TRITONSERVER_MetricSet(metric_, value));
  }

 private:
  const bool counter_;
  TRITONSERVER_Metric* metric_ = nullptr;
};

// What `args` of TritonPythonModel.initialize holds.
py::dict model_arguments(TRITONBACKEND_ModelInstance* instance) {
  TRITONBACKEND_Model* model = nullptr;
  const char *model_name = nullptr, *instance_name = nullptr, *folder = nullptr, *config = nullptr;
  TRITONBACKEND_ArtifactType artifact;
  TRITONSERVER_Message* message = nullptr;
  uint64_t version = 0;
  size_t config_bytes = 0;
  check(TRITONBACKEND_ModelInstanceModel(instance, &model));
  check(TRITONBACKEND_ModelInstanceName(instance, &instance_name));
  check(TRITONBACKEND_ModelName(model, &model_name));
  check(TRITONBACKEND_ModelVersion(model, &version));
  check(TRITONBACKEND_ModelRepository(model, &artifact, &folder));
  check(TRITONBACKEND_ModelConfig(model, 1, &message));
  check(TRITONSERVER_MessageSerializeToJson(message, &config, &config_bytes));
  py::dict arguments(
      py::arg("model_name") = model_name, py::arg("model_version") = std::to_string(version),
      py::arg("model_repository") = folder, py::arg("model_instance_name") = instance_name,
      py::arg("model_config") = std::string(config, config_bytes));
  check(TRITONSERVER_MessageDelete(message));
  return arguments;
}

// The packages of the first python3 on PATH, as the python backend takes them; no PYTHONPATH, no signal handlers.
// Our module is imported before any thread but this one runs Python: pybind11 sets itself up with it.
void start_interpreter(const std::string& backend_folder) {
  // Extension modules of wheels expect Python's symbols in the global scope, and Triton loads backends locally.
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&Py_IsInitialized), &info) == 0 ||
      dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL) == nullptr) {
    throw std::runtime_error("the shared library of Python cannot be made global");
  }
  PyConfig config;
  PyConfig_InitPythonConfig(&config);
  config.use_environment = 0;
  config.install_signal_handlers = 0;
  config.user_site_directory = 0;
  PyConfig_SetString(&config, &config.program_name, L"python3");
  py::initialize_interpreter(&config, 0, nullptr, false);
  py::module_::import("sys").attr("path").attr("insert")(0, backend_folder);
  py::module_::import("_detserve_triton");
  PyEval_SaveThread();
}

// Give this thread a Python state for good. One made for every call maps and unmaps memory each time, for which the
// kernel interrupts the other cores.
void keep_thread_state() {
  thread_local const bool kept = [] {
    PyGILState_Ensure();
    PyEval_SaveThread();
    return true;
  }();
  (void)kept;
}

// Of a Python exception, what it is and says; the lines after it are its call stack, which is not the caller's.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// Any exception of C++ or Python, as Triton's error. Of Python's, pybind11 takes the GIL to read and to drop it.
TRITONSERVER_Error* triton_error(const std::exception& error) {
  return TRITONSERVER_ErrorNew(ERROR_INTERNAL, error.what());
}

}  // namespace

PYBIND11_EMBEDDED_MODULE(_detserve_triton, module) {
  py::register_exception<TritonFailure>(module, "TritonModelException");
  module.def("log", &write_log);
  py::class_<Request, std::shared_ptr<Request>>(module, "Request")
      .def("parameters", &Request::parameters)
      .def("timeout_us", &Request::timeout_us)
      .def("input_shape", &Request::input_shape)
      .def("input_elements", &Request::input_elements)
      .def("respond", &Request::respond);
  py::class_<Metric>(module, "Metric")
      .def(py::init<const std::string&, const std::string&, bool, const py::dict&>())
      .def("write", &Metric::write);
}

DETSERVE_EXPORTED TRITONSERVER_Error* TRITONBACKEND_Initialize(TRITONBACKEND_Backend* backend) {
  try {
    uint32_t major = 0, minor = 0;
    check(TRITONBACKEND_ApiVersion(&major, &minor));
    if (major != 1) throw TritonFailure("this Triton's backend API is not version 1");
    TRITONBACKEND_ArtifactType artifact;
    const char* folder = nullptr;
    check(TRITONBACKEND_BackendArtifacts(backend, &artifact, &folder));
    start_interpreter(folder);
    return nullptr;
  } catch (const std::exception& error) {
    return triton_error(error);
  }
}

DETSERVE_EXPORTED TRITONSERVER_Error* TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance* instance) {
  try {
    keep_thread_state();
    py::gil_scoped_acquire acquire;
    py::object model = py::module_::import("model_loading").attr("load")(model_arguments(instance));
    check(TRITONBACKEND_ModelInstanceSetState(instance, model.release().ptr()));
    return nullptr;
  } catch (const std::exception& error) {
    return triton_error(error);
  }
}

DETSERVE_EXPORTED TRITONSERVER_Error* TRITONBACKEND_ModelInstanceExecute(
    TRITONBACKEND_ModelInstance* instance, TRITONBACKEND_Request** requests, const uint32_t count) {
  keep_thread_state();
  py::gil_scoped_acquire acquire;
  std::vector<std::shared_ptr<Request>> taken;
  try {
    for (uint32_t index = 0; index < count; ++index) {
      taken.push_back(std::make_shared<Request>(instance, requests[index]));
    }
    void* state = nullptr;
    check(TRITONBACKEND_ModelInstanceState(instance, &state));
    py::handle(static_cast<PyObject*>(state)).attr("execute")(taken);
  } catch (const std::exception& error) {
    write_log(LOG_ERROR, error.what());
    for (const auto& request : taken) request->respond(py::dict(), ERROR_INTERNAL, first_line(error.what()));
  }
  return nullptr;
}

DETSERVE_EXPORTED TRITONSERVER_Error* TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance* instance) {
  try {
    py::gil_scoped_acquire acquire;
    void* state = nullptr;
    check(TRITONBACKEND_ModelInstanceState(instance, &state));
    if (state == nullptr) return nullptr;  // it failed to initialize
    py::reinterpret_steal<py::object>(static_cast<PyObject*>(state)).attr("finalize")();
    return nullptr;
  } catch (const std::exception& error) {
    return triton_error(error);
  }
}
