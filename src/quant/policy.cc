#include "luq/quant/policy.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "luq/core/error.h"

namespace luq {
namespace {

// '*' any run of characters, '?' any one.
bool matches(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = std::string_view::npos, star_text = 0;
  while (t < text.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_text = t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++star_text;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace

void check_quantisers(const LayerQuant& quant, std::string_view op, std::string_view layer) {
  const auto check = [&](const char* operand, const QuantSpec& spec) {
    std::string problem = problem_of(spec);
    if (problem.empty() && spec.format.quantized() && !spec.format.is_signed()) {
      problem = fmt::format("expected float32 or a format with signs, got {}", to_string(spec.format));
    }
    if (!problem.empty()) fail_user("[{}] {}: {}: {}", op, layer, operand, problem);
  };
  check("weights", quant.weights);
  check("activations", quant.activations);
  check("gradient_for_data", quant.gradient_for_data);
  check("gradient_for_weights", quant.gradient_for_weights);
}

std::string first_conv(const std::vector<MatmulLayer>& layers) {
  const auto found = std::ranges::find(layers, LayerKind::conv, &MatmulLayer::kind);
  return found == layers.end() ? "" : found->name;
}

std::string last_linear(const std::vector<MatmulLayer>& layers) {
  const auto found = std::find_if(layers.rbegin(), layers.rend(),
                                  [](const MatmulLayer& layer) { return layer.kind == LayerKind::linear; });
  return found == layers.rend() ? "" : found->name;
}

QuantPlan::QuantPlan(const QuantPolicy& policy, const std::vector<MatmulLayer>& layers) {
  std::vector<std::string> names;
  for (const MatmulLayer& layer : layers) {
    names.push_back(layer.name);
    layers_[layer.name] = policy.spec;
  }
  if (policy.exempt_first_conv) layers_.erase(first_conv(layers));
  if (policy.exempt_last_linear) layers_.erase(last_linear(layers));
  for (const std::string& pattern : policy.exempt) {
    bool used = false;
    for (const std::string& name : names) {
      if (!matches(pattern, name)) continue;
      used = true;
      layers_.erase(name);
    }
    if (!used) {
      fail_user("[quantization.exempt] the pattern '{}' matches no layer; the model's layers are: {}", pattern,
                fmt::join(names, ", "));
    }
  }
}

bool QuantPlan::quantizes() const {
  for (const auto& [name, quant] : layers_) {
    if (quant.quantized()) return true;
  }
  return false;
}

const LayerQuant& QuantPlan::operator[](const std::string& name) const {
  static const LayerQuant float32;
  const auto found = layers_.find(name);
  return found == layers_.end() ? float32 : found->second;
}

}  // namespace luq
