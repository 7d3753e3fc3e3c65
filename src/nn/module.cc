#include "luq/nn/module.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "luq/core/error.h"

namespace luq {
namespace {

constexpr int64_t kSmall = 16384;  // elements below which threads cost more than they bring

std::string join(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : prefix + "." + name;
}

// Element i takes the numbers that follow those of element i - 1 in the key's stream: none, one or two.
void fill(Tensor& value, const Init& init, const RngKey& key) {
  float* x = value.data<float>();
  const int64_t count = value.numel();
  const auto uniform = [](uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; };
  switch (init.kind) {
    case Init::Kind::constant:
      std::fill_n(x, count, init.value);
      break;
    case Init::Kind::uniform:
#pragma omp parallel for schedule(static) if (count > kSmall)
      for (int64_t begin = 0; begin < count; begin += 4) {
        const PhiloxBlock block = philox(key, static_cast<uint64_t>(begin / 4));
        for (int64_t i = begin; i < begin + 4 && i < count; ++i) {
          x[i] = init.value * (2.0f * uniform(block.word[i - begin]) - 1.0f);
        }
      }
      break;
    case Init::Kind::normal:  // Box-Muller, one of the two values; 1 - u is never 0
#pragma omp parallel for schedule(static) if (count > kSmall)
      for (int64_t begin = 0; begin < count; begin += 2) {
        const PhiloxBlock block = philox(key, static_cast<uint64_t>(begin / 2));
        for (int64_t i = begin; i < begin + 2 && i < count; ++i) {
          const uint32_t* word = block.word + 2 * (i - begin);
          const double radius = std::sqrt(-2.0 * std::log(1.0 - static_cast<double>(uniform(word[0]))));
          const double angle = 2.0 * std::numbers::pi * static_cast<double>(uniform(word[1]));
          x[i] = init.value * static_cast<float>(radius * std::cos(angle));
        }
      }
      break;
  }
}

}  // namespace

void Module::set_name(const std::string& name) {
  name_ = name;
  for (auto& [child_name, child] : children_) child->set_name(join(name, child_name));
  for (auto& [parameter_name, parameter] : parameters_) parameter->name = join(name, parameter_name);
  for (auto& [buffer_name, buffer] : buffers_) buffer->name = join(name, buffer_name);
}

void Module::initialize(uint64_t seed) {
  for (Parameter* parameter : parameters()) {
    fill(parameter->var.value(), parameter->init, make_rng_key(seed, "init:" + parameter->name));
  }
}

void Module::to(Device device) {
  for (Parameter* parameter : parameters()) parameter->var.value() = parameter->var.value().to(device);
  for (Buffer* buffer : buffers()) {
    if (!buffer->stays_on_host) buffer->value = buffer->value.to(device);
  }
}

std::vector<Parameter*> Module::parameters() {
  std::vector<Parameter*> all;
  for (auto& [name, parameter] : parameters_) all.push_back(parameter.get());
  for (auto& [name, child] : children_) {
    for (Parameter* parameter : child->parameters()) all.push_back(parameter);
  }
  return all;
}

std::vector<Buffer*> Module::buffers() {
  std::vector<Buffer*> all;
  for (auto& [name, buffer] : buffers_) all.push_back(buffer.get());
  for (auto& [name, child] : children_) {
    for (Buffer* buffer : child->buffers()) all.push_back(buffer);
  }
  return all;
}

std::vector<MatmulLayer> Module::matmul_layers() const {
  std::vector<MatmulLayer> all;
  if (is_matmul_) all.push_back({name_, kind_});
  for (const auto& [name, child] : children_) {
    for (MatmulLayer& layer : child->matmul_layers()) all.push_back(std::move(layer));
  }
  return all;
}

Parameter& Module::register_parameter(const std::string& name, const Shape& shape, ParameterRole role,
                                      const Init& init) {
  parameters_.emplace_back(
      name, std::make_unique<Parameter>(Parameter{name, role, init, Var(Tensor::zeros(shape), true), 0}));
  return *parameters_.back().second;
}

Buffer& Module::register_buffer(const std::string& name, Tensor value, bool stays_on_host) {
  buffers_.emplace_back(name, std::make_unique<Buffer>(Buffer{name, std::move(value), stays_on_host}));
  return *buffers_.back().second;
}

}  // namespace luq
