#include "luq/train/state_dict.h"

#include <cstring>

#include "luq/core/error.h"
#include "luq/models/registry.h"
#include "tests/catch.h"
#include "tests/refusal.h"
#include "tests/temporary_folder.h"

namespace luq {
namespace {

using test::refusal;

std::unique_ptr<Module> resnet(uint64_t seed, int64_t num_classes = 10) {
  return make_model("resnet20", {.in_channels = 3, .num_classes = num_classes, .image_size = 32}, seed);
}

bool same(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

Tensor value_of(Module& model, const std::string& name) {
  for (Parameter* parameter : model.parameters()) {
    if (parameter->name == name) return parameter->var.value();
  }
  for (Buffer* buffer : model.buffers()) {
    if (buffer->name == name) return buffer->value;
  }
  FAIL("no " << name);
  return {};
}

bool equal_models(Module& a, Module& b) {
  for (size_t i = 0; i < a.parameters().size(); ++i) {
    if (!same(a.parameters()[i]->var.value(), b.parameters()[i]->var.value())) return false;
  }
  for (size_t i = 0; i < a.buffers().size(); ++i) {
    if (!same(a.buffers()[i]->value, b.buffers()[i]->value)) return false;
  }
  return true;
}

void erase(SafeTensors& content, const std::string& name) {
  std::erase_if(content.tensors, [&name](const auto& named) { return named.first == name; });
}

}  // namespace

TEST_CASE("state_dict: through a file and back, to the bit", "[state_dict]") {
  const TemporaryFolder folder;
  const auto saved = resnet(1), loaded = resnet(2);
  value_of(*saved, "bn1.running_mean").data<float>()[3] = 0.25f;
  CHECK(!equal_models(*saved, *loaded));
  save_safetensors(folder / "a", to_state_dict(*saved));
  const LoadedState state = load_state_dict(*loaded, load_safetensors(folder / "a"), {.source = "a"});
  CHECK(equal_models(*saved, *loaded));
  CHECK(state.replaced_head.empty());
  CHECK(!state.activation_scales);
}

TEST_CASE("state_dict: holds what torchvision holds, and nothing else", "[state_dict]") {
  const auto model = resnet(1);
  const SafeTensors content = to_state_dict(*model);
  CHECK(content.metadata.empty());
  CHECK(content.find("layer2.0.conv1.weight")->shape() == Shape{32, 16, 3, 3});
  CHECK(content.find("fc.weight")->shape() == Shape{10, 64});
  const Tensor* counter = content.find("layer1.0.bn2.num_batches_tracked");
  REQUIRE(counter != nullptr);
  CHECK(counter->dtype() == DType::int64);
  CHECK(counter->shape().rank() == 0);
  CHECK(counter->data<int64_t>()[0] == 0);
  for (const auto& [name, tensor] : content.tensors) {
    CAPTURE(name);
    CHECK(name.find("activation_scale") == std::string::npos);
    CHECK((tensor.dtype() == DType::float32 || name.ends_with(".num_batches_tracked")));
  }
}

TEST_CASE("state_dict: missing, unexpected and mismatched names are listed and nothing is copied", "[state_dict]") {
  const auto model = resnet(1), untouched = resnet(1), other = resnet(2);
  SafeTensors content = to_state_dict(*other);
  erase(content, "bn1.running_var");
  content.tensors.emplace_back("bn1.extra", Tensor::zeros({1}));
  for (auto& [name, tensor] : content.tensors) {
    if (name == "conv1.weight") tensor = Tensor::zeros({16, 1, 3, 3});
  }
  const std::string message = refusal([&] { load_state_dict(*model, content, {.source = "some/file"}); });
  CHECK_THAT(message, contains_text("some/file") && contains_text("missing: bn1.running_var") &&
                          contains_text("unexpected: bn1.extra") &&
                          contains_text("conv1.weight float32(16,1,3,3), expected float32(16,3,3,3)"));
  CHECK(equal_models(*model, *untouched));
}

TEST_CASE("state_dict: a wrapper's prefix is named", "[state_dict]") {
  const auto model = resnet(1);
  SafeTensors content = to_state_dict(*model);
  for (auto& [name, tensor] : content.tensors) name = "module." + name;
  CHECK_THAT(refusal([&] { load_state_dict(*model, content, {.source = "a"}); }),
             contains_text("every name begins with 'module.'"));
}

TEST_CASE("state_dict: activation scales come all or not at all", "[state_dict]") {
  const auto model = resnet(1);
  SafeTensors content = to_state_dict(*model);
  value_of(*model, "fc.activation_scale").data<float>()[0] = 3.0f;
  CHECK(!load_state_dict(*model, content, {.source = "a"}).activation_scales);
  CHECK(value_of(*model, "fc.activation_scale").data<float>()[0] == 0.0f);

  for (Buffer* buffer : model->buffers()) {
    if (buffer->name.ends_with(".activation_scale"))
      content.tensors.emplace_back(buffer->name, Tensor::full({1}, 2.0f));
  }
  CHECK(load_state_dict(*model, content, {.source = "a"}).activation_scales);
  CHECK(value_of(*model, "fc.activation_scale").data<float>()[0] == 2.0f);
  erase(content, "conv1.activation_scale");
  CHECK_THAT(refusal([&] { load_state_dict(*model, content, {.source = "a"}); }),
             contains_text("missing: conv1.activation_scale"));
}

TEST_CASE("state_dict: a head of another number of classes is replaced only where that is asked for", "[state_dict]") {
  const auto stored = resnet(1, 1000), model = resnet(2, 7), fresh = resnet(2, 7);
  const SafeTensors content = to_state_dict(*stored);
  CHECK_THAT(refusal([&] { load_state_dict(*model, content, {.source = "a"}); }),
             contains_text("fc.weight float32(1000,64), expected float32(7,64)"));
  const LoadedState state = load_state_dict(*model, content, {.source = "a", .replace_head = true});
  CHECK(state.replaced_head == "fc");
  CHECK(state.stored_classes == 1000);
  CHECK(same(value_of(*model, "fc.weight"), value_of(*fresh, "fc.weight")));
  CHECK(same(value_of(*model, "fc.bias"), value_of(*fresh, "fc.bias")));
  CHECK(same(value_of(*model, "conv1.weight"), value_of(*stored, "conv1.weight")));

  // Of the same number of classes it is loaded; of another width it is a mistake.
  const auto equal = resnet(3, 1000);
  CHECK(load_state_dict(*equal, content, {.source = "a", .replace_head = true}).replaced_head.empty());
  CHECK(equal_models(*equal, *stored));
  SafeTensors wide = content;
  for (auto& [name, tensor] : wide.tensors) {
    if (name == "fc.weight") tensor = Tensor::zeros({1000, 65});
  }
  CHECK_THAT(refusal([&] { load_state_dict(*model, wide, {.source = "a", .replace_head = true}); }),
             contains_text("fc.weight"));
}

}  // namespace luq
