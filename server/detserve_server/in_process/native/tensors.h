// Triton's types of numbers and numpy's, and a tensor on its way to Triton.
#pragma once

#include <pybind11/numpy.h>

#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "failures.h"
#include "triton.h"

namespace py = pybind11;

// By TRITONSERVER_DataType.
constexpr const char* NUMPY_TYPES[] = {"", "?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"};

inline bool is_number(TRITONSERVER_DataType type) { return type >= TYPE_BOOL && type <= TYPE_FP64; }

inline py::dtype numpy_type(const std::string& name, TRITONSERVER_DataType type) {
  if (!is_number(type)) throw TritonFailure(name + " is no tensor of numbers that numpy knows");
  return py::dtype(NUMPY_TYPES[type]);
}

inline TRITONSERVER_DataType triton_type(const std::string& name, const py::array& values) {
  for (int type = TYPE_BOOL; type <= TYPE_FP64; ++type) {
    if (values.dtype().equal(py::dtype(NUMPY_TYPES[type]))) return static_cast<TRITONSERVER_DataType>(type);
  }
  throw py::type_error(
      name + " is " + py::str(values.dtype()).cast<std::string>() + ", expected numbers in this machine's byte order");
}

inline size_t size_bytes(const py::dtype& type, const std::vector<int64_t>& shape) {
  size_t bytes = type.itemsize();
  for (int64_t size : shape) bytes *= size;
  return bytes;
}

// `data` is the memory of `values`.
struct Tensor {
  std::string name;
  py::array values;
  TRITONSERVER_DataType type;
  const void* data;
  size_t bytes;
  std::vector<int64_t> shape;
};

// Of BYTES: each element's length, 4 bytes little endian, and its content.
inline Tensor bytes_tensor(const std::string& name, const py::array& elements, std::vector<int64_t> shape) {
  std::string joined;
  for (py::handle element : elements.attr("flat")) {
    if (!py::isinstance<py::bytes>(element)) throw py::type_error(name + " has an element that is not bytes");
    const auto content = element.cast<std::string_view>();
    const auto length = static_cast<uint32_t>(content.size());
    joined.append(reinterpret_cast<const char*>(&length), sizeof(length)).append(content);
  }
  py::array values(py::dtype("u1"), std::vector<size_t>{joined.size()}, joined.data());
  return {name, values, TYPE_BYTES, values.data(), joined.size(), std::move(shape)};
}

// Copies where the array is not in one piece, or has objects.
inline Tensor tensor(const std::string& name, const py::array& given) {
  py::array values = py::array::ensure(given, py::array::c_style);
  if (!values) throw std::bad_alloc();
  std::vector<int64_t> shape(values.shape(), values.shape() + values.ndim());
  if (values.dtype().kind() == 'O') return bytes_tensor(name, values, std::move(shape));
  const void* data = values.data();
  const auto bytes = static_cast<size_t>(values.nbytes());
  return {name, values, triton_type(name, values), data, bytes, std::move(shape)};
}

inline std::vector<Tensor> tensors(const py::dict& named) {
  std::vector<Tensor> found;
  for (const auto& [name, values] : named) {
    found.push_back(tensor(name.cast<std::string>(), values.cast<py::array>()));
  }
  return found;
}

// An array on memory that `holder` keeps, a heap object of its own; it goes with the last array on it.
template <typename Holder>
py::array array_on(const py::dtype& type, const std::vector<int64_t>& shape, const void* data, Holder holder) {
  py::capsule keeper(new Holder(std::move(holder)), [](void* kept) { delete static_cast<Holder*>(kept); });
  return py::array(type, shape, data, keeper);
}
