#include "luq/train/ema.h"

#include "luq/core/error.h"
#include "luq/models/registry.h"
#include "tests/catch.h"

namespace luq {

TEST_CASE("ema: the average follows ModelEmaV2's rule, buffers included", "[ema]") {
  const auto model = make_model("resnet20", {.in_channels = 1, .num_classes = 10, .image_size = 32}, 1);
  float& weight = model->parameters()[0]->var.value().data<float>()[0];
  Buffer& scale = *model->buffers()[0];  // the first layer's activation scale
  REQUIRE(scale.name == "conv1.activation_scale");
  float& buffer = scale.value.data<float>()[0];
  ModelEma ema(*model, 0.9);
  const auto stored = [&](const std::string& name) {
    for (const auto& [key, tensor] : ema.state()) {
      if (key == "ema." + name) return tensor.data<float>()[0];
    }
    FAIL(name << " is not averaged");
    return 0.0f;
  };
  float average_weight = 0, average_buffer = 0;
  for (int64_t step = 1; step <= 4; ++step) {
    weight = 0.5f * static_cast<float>(step);
    buffer = 1.0f / static_cast<float>(step);
    ema.update(step);
    const auto decay = static_cast<float>(0.9), rest = static_cast<float>(1 - 0.9);
    average_weight = step == 1 ? weight : decay * average_weight + rest * weight;
    average_buffer = step == 1 ? buffer : decay * average_buffer + rest * buffer;
    CHECK(stored("conv1.weight") == average_weight);
    CHECK(stored("conv1.activation_scale") == average_buffer);
  }
  CHECK(ema.state().size() == model->parameters().size() + model->buffers().size());

  ema.swap();
  CHECK(weight == average_weight);
  CHECK(buffer == average_buffer);
  CHECK(stored("conv1.weight") == 2.0f);
  ema.swap();
  CHECK(weight == 2.0f);
  CHECK(stored("conv1.weight") == average_weight);
  CHECK_THROWS_AS(ModelEma(*model, 1.0), UserError);
  CHECK_THROWS_AS(ModelEma(*model, 0.0), UserError);
}

}  // namespace luq
