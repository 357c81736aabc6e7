// A Triton backend that runs a detserve pipeline (model.py) inside the server's own process.
//
// Triton's python backend runs every model in its own process: each request is copied into shared memory and
// handed over, each answer handed back. Here one interpreter is embedded, and a request's thread calls model.py.
// Python sees this file as the module _detserve_triton; triton_python_backend_utils.py puts the python backend's
// names on it.
#include <dlfcn.h>
#include <pybind11/embed.h>
#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "failures.h"
#include "inference.h"
#include "metric.h"
#include "request.h"
#include "triton.h"

namespace py = pybind11;

namespace {

TRITONSERVER_Server* server_of(TRITONBACKEND_ModelInstance* instance) {
  TRITONBACKEND_Model* model = nullptr;
  TRITONSERVER_Server* server = nullptr;
  check(TRITONBACKEND_ModelInstanceModel(instance, &model));
  check(TRITONBACKEND_ModelServer(model, &server));
  return server;
}

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
  module.def("infer", &infer);
  module.def("model_is_ready", &model_is_ready);
  py::class_<Request, std::shared_ptr<Request>>(module, "Request")
      .def("parameters", &Request::parameters)
      .def("timeout_us", &Request::timeout_us)
      .def("is_cancelled", &Request::is_cancelled)
      .def("input_shape", &Request::input_shape)
      .def("is_bytes", &Request::is_bytes)
      .def("input_elements", &Request::input_elements)
      .def("input_numbers", &Request::input_numbers)
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
    this_server = server_of(instance);
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
