// A counter or a gauge among Triton's own metrics.
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "failures.h"
#include "triton.h"

namespace py = pybind11;

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
