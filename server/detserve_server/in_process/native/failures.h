// Triton's errors as exceptions, and its log.
#pragma once

#include <stdexcept>
#include <string>

#include "triton.h"

struct TritonFailure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void check(TRITONSERVER_Error* error) {
  if (error == nullptr) return;
  std::string text = TRITONSERVER_ErrorMessage(error);
  TRITONSERVER_ErrorDelete(error);
  throw TritonFailure(text);
}

inline void write_log(int level, const std::string& text) {
  TRITONSERVER_LogMessage(static_cast<TRITONSERVER_LogLevel>(level), "model.py", 0, text.c_str());
}
