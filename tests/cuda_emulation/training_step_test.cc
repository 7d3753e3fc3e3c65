// Whole training steps on the emulated device: every kernel against ref on the operands that it meets, and the same
// experiment on both devices in one process.
#include "src/train/training_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/kernels.h"
#include "luq/core/error.h"
#include "luq/core/profile.h"
#include "luq/core/rng.h"
#include "luq/train/checkpoint.h"
#include "luq/train/ema.h"
#include "luq/train/trainer.h"
#include "src/train/experiment_parts.h"
#include "tests/catch.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/shadow.h"
#include "tests/cuda_emulation/small_models.h"
#include "tests/kernels/test_formats.h"
#include "tests/temporary_folder.h"

using namespace luq;
using namespace luq::test;

namespace {

const Device kCuda{DeviceType::cuda, 0};

enum class Arithmetic { luq, luq_bfloat16, float32, bfloat16 };

// A model of each kind of block has all of them, the others those that are not like these.
std::vector<Arithmetic> arithmetics_of(const std::string& model) {
  if (model == "small_resnet20" || model == "small_mobilenet" || model == "small_vit")
    return {Arithmetic::luq, Arithmetic::luq_bfloat16, Arithmetic::float32, Arithmetic::bfloat16};
  return {Arithmetic::luq, Arithmetic::bfloat16};
}

const char* to_string(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::luq:
      return "luq";
    case Arithmetic::luq_bfloat16:
      return "luq beside bfloat16";
    case Arithmetic::float32:
      return "float32";
    case Arithmetic::bfloat16:
      break;
  }
  return "bfloat16";
}

bool is_luq(Arithmetic a) { return a == Arithmetic::luq || a == Arithmetic::luq_bfloat16; }
bool is_bfloat16(Arithmetic a) { return a == Arithmetic::bfloat16 || a == Arithmetic::luq_bfloat16; }

ExperimentConfig experiment(const std::string& model, Arithmetic arithmetic, const std::string& device) {
  small_models();
  ExperimentConfig config;
  config.seed = 3;
  config.threads = 2;
  config.device = device;
  config.precision = is_bfloat16(arithmetic) ? "bfloat16" : "float32";
  config.model.name = model;
  config.data.name = "synthetic";
  config.data.synthetic = {.train_images = 32, .test_images = 8, .image_size = 12, .channels = 3, .num_classes = 6};
  config.train.batch_size = 4;
  config.optimizer.lr = 0.02;
  if (model == "small_vit") {
    config.optimizer.name = "adamw";
    config.optimizer.lr = 1e-3;
    config.optimizer.eps = 1e-4;  // a gradient near 0 is not blown up, nor its rounding with it
  }
  if (is_luq(arithmetic)) {
    config.quantization.spec = {{Format::int4, ScaleMethod::sawb, Rounding::nearest},
                                {Format::int4, ScaleMethod::sawb, Rounding::nearest},
                                {Format::fp4, ScaleMethod::max, Rounding::stochastic}};
  }
  return config;
}

bool same_bytes(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to({}), y = b.to({});
  return x.shape() == y.shape() && x.dtype() == y.dtype() &&
         std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.bytes())) == 0;
}

// An experiment that goes on step by step.
class Steps {
 public:
  explicit Steps(const ExperimentConfig& config)
      : config_(config),
        parts_(make_parts(config_, true)),
        optimizer_(make_optimizer(config_.optimizer, parts_.model->parameters(), *parts_.kernels)),
        loader_(parts_.train_set, transform_options(config_),
                {.batch_size = config_.train.batch_size, .shuffle = true, .seed = config_.seed}) {
    loader_.start(0);
  }

  void use(const Kernels& kernels) {
    parts_.kernels = &kernels;
    optimizer_->use(kernels);
  }
  Ctx context() const {
    Ctx ctx = parts_.context(config_);
    ctx.kernels = parts_.kernels;
    return ctx;
  }
  StepOutcome step() {
    Ctx ctx = context();
    ctx.training = true;
    ctx.step = step_++;
    return training_step(config_, parts_, ctx, *optimizer_, next(), config_.optimizer.lr);
  }
  Batch next() {
    Batch batch;
    REQUIRE(loader_.next(batch));
    return batch;
  }
  ExperimentParts& parts() { return parts_; }
  Optimizer& optimizer() { return *optimizer_; }
  std::vector<Parameter*> parameters() { return parts_.model->parameters(); }

 private:
  ExperimentConfig config_;
  ExperimentParts parts_;
  std::unique_ptr<Optimizer> optimizer_;
  Loader loader_;
  uint64_t step_ = 0;
};

}  // namespace

TEST_CASE("cuda: every kernel of training steps does what ref does with its operands", "[cuda][training]") {
  std::map<std::string, int> called;
  const auto run = [&called](const ExperimentConfig& config, const char* what) {
    INFO(config.model.name << ", " << what);
    Shadow shadow;
    Steps steps(config);
    steps.use(shadow.table());
    // A transformer's head starts at 0, and no gradient comes through it at the first step.
    for (int step = 0; step < (config.model.name == "small_vit" ? 2 : 1); ++step) steps.step();
    Ctx ctx = steps.context();
    steps.parts().model->forward(ctx, steps.parts().input(ctx, steps.next().images));  // an evaluation
    for (const auto& [name, count] : shadow.counts()) {
      INFO(name << ": " << count.wrong << " of " << count.calls << " calls are wrong, the first: " << count.first);
      CHECK(count.wrong == 0);
      called[name] += count.calls;
    }
  };
  for (const std::string& model : small_models()) {
    for (const Arithmetic arithmetic : arithmetics_of(model))
      run(experiment(model, arithmetic, "cuda"), to_string(arithmetic));
  }
  ExperimentConfig config = experiment("small_resnet20", Arithmetic::luq, "cuda");
  config.train.micro_batches = 2;
  config.train.clip_grad_norm = 0.5;
  config.train.label_smoothing = 0.1;
  config.data.augment.mixup_alpha = 0.4;
  config.data.augment.cutmix_alpha = 1;
  run(config, "mixed images, micro-batches and clipping");
  config = experiment("small_resnet20", Arithmetic::luq, "cuda");
  LayerQuant& spec = config.quantization.spec;
  spec.gradient_for_data.format = spec.gradient_for_weights.format = Format::float32;
  run(config, "float gradients, codes decoded");
  const Format levels = register_format(kTestFormats[3]), planes = register_format(std::end(kTestFormats)[-1]);
  spec = {{levels, ScaleMethod::max, Rounding::stochastic},
          {Format::int4, ScaleMethod::sawb, Rounding::nearest},
          {planes, ScaleMethod::max, Rounding::stochastic},
          {levels, ScaleMethod::max, Rounding::nearest}};
  run(config, "formats of other values, in two planes too, one for each product");
  // These are left: entries that fused ones stand for, what runs between steps, and what no model of the zoo has.
  std::string uncalled;
  for (const auto& [name, implementation] : describe(kernels_for(kCuda))) {
    if (std::string(implementation) != "-" && called[name] == 0) uncalled += " " + name;
  }
  CHECK(uncalled == " batch_norm_apply batch_norm_backward moving_average avg_pool avg_pool_backward");
}

TEST_CASE("cuda: kernels that are a little wrong differ from ref", "[cuda][training]") {
  Kernels faulty = kernels_for(kCuda);
#define LUQ_FAULT(entry, Args, change)                \
  faulty.entry.run = [](const kernels::Args& given) { \
    kernels::Args a = given;                          \
    change;                                           \
    kernels_for(kCuda).entry(a);                      \
  }
  LUQ_FAULT(encode, EncodeArgs, a.key.k0 ^= 1);
  LUQ_FAULT(qconv_forward_moments, QConvForwardMomentsArgs,
            a.conv.scale = std::nextafter(a.conv.scale, 2 * a.conv.scale));
  LUQ_FAULT(qconv_backward_data, QConvBackwardDataArgs, a.w_table = Format::uint4.table());
  LUQ_FAULT(qconv_backward_weight, QConvBackwardWeightArgs, a.scale = std::nextafter(a.scale, 2 * a.scale));
  LUQ_FAULT(conv_forward, ConvForwardArgs, a.bias = nullptr);
  LUQ_FAULT(conv_backward_weight, ConvBackwardWeightArgs, a.shape.n -= a.shape.n > 1 ? 1 : 0);
  LUQ_FAULT(sgd, SgdArgs, a.weight_decay = 0);
  LUQ_FAULT(batch_norm_act, BatchNormActArgs, a.residual = nullptr);
  LUQ_FAULT(batch_norm_act_backward, BatchNormActBackwardArgs, a.training = false);
  LUQ_FAULT(cross_entropy, CrossEntropyArgs, a.label_smoothing = 0.01f);
#undef LUQ_FAULT
  Shadow shadow(faulty);
  Steps steps(experiment("small_resnet20", Arithmetic::luq, "cuda"));
  steps.use(shadow.table());
  steps.step();
  for (const char* name :
       {"encode", "qconv_forward_moments", "qconv_backward_data", "qconv_backward_weight", "conv_forward",
        "conv_backward_weight", "sgd", "batch_norm_act", "batch_norm_act_backward", "cross_entropy"}) {
    INFO(name);
    REQUIRE(shadow.counts().contains(name));
    CHECK(shadow.counts().at(name).wrong > 0);
  }
}

TEST_CASE("cuda: the first step has the CPU's weight codes, statistics and first results", "[cuda][training]") {
  for (const std::string& model : small_models()) {
    ExperimentConfig config = experiment(model, Arithmetic::luq, "cpu");
    config.quantization.exempt_first_conv = config.quantization.exempt_last_linear = false;
    Steps here(config);
    config.device = "cuda";
    Steps there(config);
    const std::vector<Parameter*> a = here.parameters(), b = there.parameters();
    for (size_t i = 0; i < a.size(); ++i) {
      const Tensor &x = a[i]->var.value(), &y = b[i]->var.value();
      Stats of_x, of_y;
      kernels_for({}).stats({x.data<float>(), x.numel(), &of_x});
      kernels_for(kCuda).stats({y.data<float>(), y.numel(), &of_y});
      INFO(model << ", " << a[i]->name);
      CHECK(same_bytes(x, y));
      CHECK(of_x.sum_abs == of_y.sum_abs);
      CHECK(of_x.sum_sq == of_y.sum_sq);
      CHECK(of_x.abs_bits_max == of_y.abs_bits_max);
    }
    const Batch batch = here.next();
    const auto traced = [&batch](Steps& steps) {
      std::vector<TraceNode> nodes;
      Ctx ctx = steps.context();
      ctx.training = true;
      ctx.trace = &nodes;
      steps.parts().model->forward(ctx, steps.parts().input(ctx, batch.images));
      return nodes;
    };
    const std::vector<TraceNode> nodes = traced(here), other = traced(there);
    REQUIRE(nodes.size() == other.size());
    // Until the first sums of floats everything is the same: integer sums, bias, ReLU, pools; in a net without norms
    // that is all of it.
    bool exact = true;
    int64_t layers = 0, codes = 0, different = 0;
    for (size_t i = 0; i < nodes.size(); ++i) {
      const TraceNode &node = nodes[i], &same = other[i];
      INFO(model << ", " << node.op << " " << node.layer);
      REQUIRE(node.op == same.op);
      if (const TraceNode::Operand* weight = node.find("weight"); weight != nullptr && weight->codes.defined()) {
        const QTensor &w = weight->codes, &v = same.find("weight")->codes;
        CHECK(w.scale == v.scale);
        CHECK(same_bytes(w.planes[0].codes, v.planes[0].codes));
        const QTensor &x = node.find("x")->codes, &y = same.find("x")->codes;
        if (exact) {
          CHECK(x.scale == y.scale);
          CHECK(same_bytes(x.planes[0].codes, y.planes[0].codes));
        }
        CHECK(x.scale == Approx(y.scale).epsilon(1e-5));
        const Tensor of_x = x.planes[0].codes.to({}), of_y = y.planes[0].codes.to({});
        for (int64_t byte = 0; byte < of_x.numel(); ++byte) {
          const int p = of_x.data<uint8_t>()[byte], q = of_y.data<uint8_t>()[byte];
          different += ((p ^ q) & 15) != 0 ? 1 : 0;
          different += ((p ^ q) >> 4) != 0 ? 1 : 0;
          codes += 2;
        }
        ++layers;
      }
      const bool sums_floats =
          node.op == "batch_norm" || node.op == "layer_norm" || node.op == "attention" || node.op == "gelu";
      if (sums_floats) exact = false;
      if (exact) CHECK(same_bytes(node.output.value(), same.output.value()));
    }
    INFO(model << ": " << different << " of " << codes << " codes of activations differ");
    CHECK(layers > 3);
    CHECK(exact == (model == "small_vgg"));
    // A value moves by some 2^-22 of itself; where it lies that close to the middle between two codes its code changes,
    // and the codes behind it with it.
    CHECK(different * 1000 <= codes);
  }
}

TEST_CASE("cuda: a run does not time each kernel of each step", "[cuda][training]") {
  const TemporaryFolder folder;
  ExperimentConfig config = experiment("small_resnet20", Arithmetic::luq, "cuda");
  config.run.directory = folder / "run";
  config.train.max_steps = 2;
  config.eval.max_images = 4;
  const KernelProfile the_only_one(kernels_for({}), {});  // another one would throw
  CHECK(train(config, StartMode::fresh).step == 2);
}

TEST_CASE("cuda: a checkpoint goes from device to device and back without a change", "[cuda][training]") {
  const TemporaryFolder folder;
  ExperimentConfig config = experiment("small_vit", Arithmetic::luq, "cuda");
  Steps there(config);
  ModelEma there_ema(*there.parts().model, 0.9);
  there.step();
  there_ema.update(1);
  there.step();
  there_ema.update(2);
  TrainState state;
  state.step = 2;
  const auto file = [&folder](const char* name) { return folder / name; };
  save_checkpoint(file("a"), *there.parts().model, there.optimizer(), state, &there_ema);
  const auto load_and_save = [&](Steps& steps, const std::string& from, const std::string& to) {
    ModelEma ema(*steps.parts().model, 0.9);
    restore(read_checkpoint(from), *steps.parts().model, steps.optimizer(), &ema);
    save_checkpoint(to, *steps.parts().model, steps.optimizer(), state, &ema);
  };
  Steps again(config);
  config.device = "cpu";
  Steps here(config);
  load_and_save(here, file("a"), file("b"));
  load_and_save(again, file("b"), file("c"));
  const std::string saved = read_file(file("a"));
  CHECK(saved.size() > 50000);
  CHECK(read_file(file("b")) == saved);
  CHECK(read_file(file("c")) == saved);
}

TEST_CASE("cuda: memory that an error left behind is freed without another", "[cuda][training]") {
  {
    const Tensor tensor = Tensor::zeros({100}, DType::float32, kCuda), other = Tensor::zeros({7});
    const auto& move = kernels_for(kCuda).copy_rows;  // from the host's memory
    CHECK_THROWS_AS(move({other.raw(), 4, 7, 4, 4, const_cast<void*>(tensor.raw())}), Error);
    CHECK_THROWS_AS(Tensor::zeros({100}, DType::float32, kCuda), Error);
  }  // what is freed here cannot be
  emulation::reset();
  CHECK_NOTHROW(Tensor::zeros({100}, DType::float32, kCuda));
}

TEST_CASE("cuda: five steps on both devices of one process", "[cuda][training]") {
  // Float sums, exp and the like are what differs: some 2^-22 of a value. Four more runs on the CPU, from weights that
  // are 1e-6 away, show how much of a difference such a change makes by itself; on codes it may be that of a whole step
  // between codes. All runs go through the same chain of entries, since fused ones round to bfloat16 less often.
  constexpr int kSteps = 5, kOthers = 4;
  Kernels device_table = kernels_for(kCuda), cpu_table = kernels_for({});
#define LUQ_SAME_CHAIN(name, Args) \
  if (!device_table.name || !cpu_table.name) device_table.name = cpu_table.name = {};
  LUQ_OPTIONAL_KERNEL_ENTRIES(LUQ_SAME_CHAIN)
#undef LUQ_SAME_CHAIN
  for (const std::string& model : small_models()) {
    for (const Arithmetic arithmetic : arithmetics_of(model)) {
      const auto made = [&](const std::string& device, uint64_t perturbation) {
        auto steps = std::make_unique<Steps>(experiment(model, arithmetic, device));
        steps->use(device == "cpu" ? cpu_table : device_table);
        if (perturbation == 0) return steps;
        RngStream random(make_rng_key(perturbation, "perturbation"));
        for (Parameter* parameter : steps->parameters()) {
          float* x = parameter->var.value().data<float>();
          for (int64_t i = 0; i < parameter->var.value().numel(); ++i) {
            x[i] *= random.uniform() < 0.5f ? 1 - 1e-6f : 1 + 1e-6f;
          }
        }
        return steps;
      };
      const auto here = made("cpu", 0), there = made("cuda", 0);
      std::vector<std::unique_ptr<Steps>> others;
      for (uint64_t i = 1; i <= kOthers; ++i) others.push_back(made("cpu", i));
      double spread = 0;
      for (int step = 0; step < kSteps; ++step) {
        const double loss = here->step().loss, on_device = there->step().loss;
        for (const auto& other : others) spread = std::max(spread, std::fabs(other->step().loss - loss));
        INFO(model << ", " << to_string(arithmetic) << ", step " << step << ": " << loss << ", on the device "
                   << on_device << ", spread " << spread);
        CHECK(std::isfinite(loss));
        CHECK(std::fabs(on_device - loss) <= 2 * spread + 1e-6 * loss);
      }
    }
  }
}
