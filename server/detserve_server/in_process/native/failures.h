// Triton's errors as exceptions, and its log.
#pragma once

#include <stdexcept>
#include <string>

#include "triton.h"

struct TritonFailure : std::runtime_error {
  explicit TritonFailure(const std::string& text, TRITONSERVER_Error_Code code = ERROR_INTERNAL)
      : std::runtime_error(text), code(code) {}
  const TRITONSERVER_Error_Code code;
};

inline void check(TRITONSERVER_Error* error) {
  if (error == nullptr) return;
  TritonFailure failure(TRITONSERVER_ErrorMessage(error), TRITONSERVER_ErrorCode(error));
  TRITONSERVER_ErrorDelete(error);
  throw failure;
}

inline void write_log(int level, const std::string& text) {
  TRITONSERVER_LogMessage(static_cast<TRITONSERVER_LogLevel>(level), "model.py", 0, text.c_str());
}

// Where nobody is left who could be told.
inline void log_failure(TRITONSERVER_Error* error) {
  try {
    check(error);
  } catch (const TritonFailure& failure) {
    write_log(LOG_ERROR, failure.what());
  }
}
