// A model from outside the tree: registered by name, then trained like any other.

#include <iostream>

#include "luq/config/load.h"
#include "luq/core/error.h"
#include "luq/models/registry.h"
#include "luq/nn/layers.h"
#include "luq/train/trainer.h"

namespace {

// x (N, H, W, C) -> logits (N, classes). The convolution in the middle is quantised by the configuration; nothing here
// says so.
class TinyNet : public luq::Module {
 public:
  explicit TinyNet(const luq::ModelOptions& options)
      : features_(register_module<luq::Sequential>("features")),
        fc_(register_module<luq::Linear>("fc", 32, options.num_classes)) {
    features_.append<luq::Conv2d>(options.in_channels, 16,
                                  luq::Conv2dLayerOptions{.kernel = 3, .conv = {.padding = 1}});
    features_.append<luq::BatchNorm2d>(16);
    features_.append<luq::ReLU>();
    features_.append<luq::Conv2d>(16, 32, luq::Conv2dLayerOptions{.kernel = 3, .conv = {.stride = 2, .padding = 1}});
    features_.append<luq::BatchNorm2d>(32);
    features_.append<luq::ReLU>();
  }

  luq::Var forward(luq::Ctx& ctx, const luq::Var& x) override {
    return fc_.forward(ctx, luq::global_avg_pool(ctx, features_.forward(ctx, x)));
  }

 private:
  luq::Sequential& features_;
  luq::Linear& fc_;
};

}  // namespace

int main(int argc, char** argv) {
  luq::register_model("tiny_net", [](const luq::ModelOptions& options) { return std::make_unique<TinyNet>(options); });
  try {
    const std::vector<std::string> overrides(argv + std::min(argc, 2), argv + argc);
    const luq::ExperimentConfig config = luq::load_experiment(argc > 1 ? argv[1] : "tiny_net.yaml", overrides);
    const luq::TrainResult result = luq::train(config, luq::StartMode::overwrite);
    std::cout << "test top-1 " << result.last_eval.top1 << " %\n";
  } catch (const luq::Error& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
