#include "luq/train/checkpoint.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>

#include "luq/core/error.h"
#include "luq/core/shell.h"
#include "luq/models/registry.h"
#include "luq/models/vgg.h"
#include "luq/train/model_file.h"
#include "tests/catch.h"
#include "tests/refusal.h"
#include "tests/temporary_folder.h"

namespace luq {
namespace {

using test::refusal;

namespace fs = std::filesystem;

struct Subject {
  explicit Subject(uint64_t seed, const std::string& name = "resnet20")
      : Subject(make_model(name, {.in_channels = 1, .num_classes = 10, .image_size = 32}, seed)) {}
  explicit Subject(std::unique_ptr<Module> with)
      : model(std::move(with)),
        optimizer(make_optimizer(OptimizerConfig{}, model->parameters(), kernels_for(Device{}))) {}
  std::unique_ptr<Module> model;
  std::unique_ptr<Optimizer> optimizer;

  // Gives the velocities values and moves the parameters.
  void train_a_little() {
    for (Parameter* parameter : model->parameters()) {
      parameter->var.slot()->grad = Tensor::full(parameter->var.shape(), 0.25f);
    }
    optimizer->step(0.1);
  }
  bool equals(Subject& other) {
    const auto same = [](const Tensor& a, const Tensor& b) {
      return a.shape() == b.shape() && std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
    };
    for (size_t i = 0; i < model->parameters().size(); ++i) {
      if (!same(model->parameters()[i]->var.value(), other.model->parameters()[i]->var.value())) return false;
    }
    for (size_t i = 0; i < model->buffers().size(); ++i) {
      if (!same(model->buffers()[i]->value, other.model->buffers()[i]->value)) return false;
    }
    for (size_t i = 0; i < optimizer->state().size(); ++i) {
      if (!same(optimizer->state()[i].second, other.optimizer->state()[i].second)) return false;
    }
    return true;
  }
};

TrainState example_state() {
  TrainState state;
  state.step = 123;
  state.epoch = 2;
  state.batch = 7;
  state.seed = std::numeric_limits<uint64_t>::max();
  state.best_top1 = 100.0 / 3.0;
  state.finished = true;
  state.config = "model:\n  name: resnet20\n";
  state.data = R"({"name": "synthetic"})";
  state.window = {1.0 / 3.0, 1e-300, 5, 6, 7, 8};
  return state;
}

bool restore_weights(const Checkpoint& checkpoint, Module& model,
                     CheckpointWeights weights = CheckpointWeights::ema_if_stored) {
  const ModelFile model_file = read_model_file(checkpoint.file, weights);
  load_model_file(model_file, model);
  return model_file.is_ema;
}

}  // namespace

TEST_CASE("checkpoint: what is saved is restored, to the bit", "[checkpoint]") {
  const TemporaryFolder folder;
  Subject saved(1), restored(2);
  saved.train_a_little();
  CHECK(!saved.equals(restored));
  const TrainState state = example_state();
  save_checkpoint(folder / "a", *saved.model, *saved.optimizer, state);
  const Checkpoint checkpoint = read_checkpoint(folder / "a");
  CHECK(checkpoint.state.step == state.step);
  CHECK(checkpoint.state.epoch == state.epoch);
  CHECK(checkpoint.state.batch == state.batch);
  CHECK(checkpoint.state.seed == state.seed);
  CHECK(checkpoint.state.best_top1 == state.best_top1);
  CHECK(checkpoint.state.finished);
  CHECK(checkpoint.state.config == state.config);
  CHECK(checkpoint.state.data == state.data);
  const TrainWindow &window = checkpoint.state.window, &saved_window = state.window;
  CHECK(window.loss_sum == saved_window.loss_sum);
  CHECK(window.gradient_norm_sum == saved_window.gradient_norm_sum);
  CHECK(window.correct == saved_window.correct);
  CHECK(window.images == saved_window.images);
  CHECK(window.broken_images == saved_window.broken_images);
  CHECK(window.steps == saved_window.steps);
  restore(checkpoint, *restored.model, *restored.optimizer);
  CHECK(saved.equals(restored));

  save_checkpoint(folder / "b", *restored.model, *restored.optimizer, state);
  CHECK(read_file(folder / "a") == read_file(folder / "b"));
}

TEST_CASE("checkpoint: convolution weights are stored (O, I, KH, KW)", "[checkpoint]") {
  const TemporaryFolder folder;
  Subject subject(1);
  save_checkpoint(folder / "a", *subject.model, *subject.optimizer, {});
  const SafeTensors content = load_safetensors(folder / "a");
  const Tensor* stored = content.find("layer2.0.conv1.weight");
  REQUIRE(stored != nullptr);
  CHECK(stored->shape() == Shape{32, 16, 3, 3});
  CHECK(content.find("optimizer.momentum.layer2.0.conv1.weight")->shape() == Shape{32, 16, 3, 3});
  for (const Parameter* parameter : subject.model->parameters()) {
    if (parameter->name != "layer2.0.conv1.weight") continue;
    const float* live = parameter->var.value().data<float>();  // (32, 3, 3, 16)
    const float* file = stored->data<float>();                 // (32, 16, 3, 3)
    bool equal = true;
    for (int o = 0; o < 32; ++o) {
      for (int h = 0; h < 3; ++h) {
        for (int w = 0; w < 3; ++w) {
          for (int i = 0; i < 16; ++i) {
            equal = equal && live[((o * 3 + h) * 3 + w) * 16 + i] == file[((o * 16 + i) * 3 + h) * 3 + w];
          }
        }
      }
    }
    CHECK(equal);
  }
}

TEST_CASE("checkpoint: columns behind flatten are stored channel by channel, as PyTorch has them", "[checkpoint]") {
  const TemporaryFolder folder;
  const auto new_vgg = [](uint64_t seed) {
    auto vgg = std::make_unique<Vgg>(
        VggOptions{.features = {5, 0}, .pooled_size = 2, .hidden = 3, .in_channels = 1, .num_classes = 2});
    vgg->set_name("");
    vgg->initialize(seed);
    return vgg;
  };
  Subject subject(new_vgg(1)), copy(new_vgg(2));
  subject.train_a_little();
  save_checkpoint(folder / "a", *subject.model, *subject.optimizer, {});
  restore(read_checkpoint(folder / "a"), *copy.model, *copy.optimizer);
  CHECK(copy.equals(subject));

  const SafeTensors content = load_safetensors(folder / "a");
  for (const Parameter* parameter : subject.model->parameters()) {
    if (parameter->name != "classifier.0.weight") continue;
    const Tensor* stored = content.find(parameter->name);
    REQUIRE(stored != nullptr);
    REQUIRE(stored->shape() == Shape{3, 5 * 2 * 2});
    const float* live = parameter->var.value().data<float>();  // (3, 2, 2, 5)
    const float* file = stored->data<float>();                 // (3, 5, 2, 2)
    bool equal = true;
    for (int o = 0; o < 3; ++o) {
      for (int pixel = 0; pixel < 4; ++pixel) {
        for (int c = 0; c < 5; ++c) equal = equal && live[(o * 4 + pixel) * 5 + c] == file[(o * 5 + c) * 4 + pixel];
      }
    }
    CHECK(equal);
  }

  // The first format had them pixel by pixel. The refusal of a wrong checksum names the right one.
  const auto as_first_format = [&](Subject& of, const std::string& name) {
    save_checkpoint(folder / name, *of.model, *of.optimizer, {});
    SafeTensors old = load_safetensors(folder / name);
    old.metadata["format"] = "luqtrain checkpoint 1";
    save_safetensors(folder / name, old);
    const std::string complaint = refusal([&] { read_checkpoint(folder / name); });
    old.metadata["crc32"] = complaint.substr(complaint.size() - 8);
    save_safetensors(folder / name, old);
    return read_checkpoint(folder / name);
  };
  const Checkpoint old_vgg = as_first_format(subject, "vgg");
  CHECK_THAT(refusal([&] { restore_weights(old_vgg, *copy.model); }),
             contains_text("'luqtrain checkpoint 1' has the columns of classifier.0.weight in another order"));
  Subject resnet(1), other(2);
  restore_weights(as_first_format(resnet, "resnet"), *other.model);
  CHECK(other.equals(resnet));
}

TEST_CASE("checkpoint: the average is stored beside the weights, and taken for evaluation", "[checkpoint][ema]") {
  const TemporaryFolder folder;
  Subject saved(1), restored(2), fresh(3);
  ModelEma ema(*saved.model, 0.75), restored_ema(*restored.model, 0.75);
  ema.update(1);
  saved.train_a_little();
  ema.update(2);
  save_checkpoint(folder / "a", *saved.model, *saved.optimizer, {}, &ema);
  const Checkpoint checkpoint = read_checkpoint(folder / "a");
  CHECK(checkpoint.content.find("ema.layer2.0.conv1.weight")->shape() == Shape{32, 16, 3, 3});
  CHECK(checkpoint.content.find("ema.bn1.running_var") != nullptr);

  restore(checkpoint, *restored.model, *restored.optimizer, &restored_ema);
  CHECK(saved.equals(restored));
  save_checkpoint(folder / "b", *restored.model, *restored.optimizer, {}, &restored_ema);
  CHECK(read_file(folder / "a") == read_file(folder / "b"));
  CHECK_THAT(refusal([&] { restore(checkpoint, *fresh.model, *fresh.optimizer); }), contains_text("unexpected: ema."));

  const auto first_weight = [](Subject& subject) {
    return subject.model->parameters()[0]->var.value().data<float>()[0];
  };
  ema.swap();
  const float average = first_weight(saved);
  ema.swap();
  CHECK(average != first_weight(saved));
  CHECK(restore_weights(checkpoint, *fresh.model));
  CHECK(first_weight(fresh) == average);
  CHECK_FALSE(restore_weights(checkpoint, *fresh.model, CheckpointWeights::trained));
  CHECK(first_weight(fresh) == first_weight(saved));
}

TEST_CASE("checkpoint: one of another model is refused with the names", "[checkpoint]") {
  const TemporaryFolder folder;
  Subject resnet20(1), resnet32(1, "resnet32");
  Subject vgg(1, "vgg11_bn");
  save_checkpoint(folder / "20", *resnet20.model, *resnet20.optimizer, {});
  save_checkpoint(folder / "32", *resnet32.model, *resnet32.optimizer, {});
  const auto restore_into = [&](const std::string& name, Subject& subject) {
    return refusal([&] { restore(read_checkpoint(folder / name), *subject.model, *subject.optimizer); });
  };
  const std::string missing = restore_into("20", resnet32);
  CHECK_THAT(missing, contains_text("missing: layer1.3.") && contains_text("more") && contains_text(folder / "20"));
  CHECK_THAT(restore_into("32", resnet20), contains_text("unexpected: layer1.3."));
  CHECK_THAT(restore_into("20", vgg), contains_text("missing") && contains_text("unexpected"));

  auto colour = make_model("resnet20", {.in_channels = 3, .num_classes = 10, .image_size = 32}, 1);
  CHECK_THAT(refusal([&] { restore_weights(read_checkpoint(folder / "20"), *colour); }),
             contains_text("conv1.weight float32(16,1,3,3), expected float32(16,3,3,3)"));

  // Nothing was copied, and evaluation needs the model's part alone.
  Subject untouched(2), same(2);
  refusal([&] { restore(read_checkpoint(folder / "32"), *untouched.model, *untouched.optimizer); });
  CHECK(untouched.equals(same));
  CHECK_FALSE(restore_weights(read_checkpoint(folder / "20"), *untouched.model));
}

TEST_CASE("checkpoint: damage anywhere is noticed", "[checkpoint]") {
  const TemporaryFolder folder;
  Subject subject(1);
  save_checkpoint(folder / "a", *subject.model, *subject.optimizer, example_state());
  const std::string bytes = read_file(folder / "a");
  for (size_t at = 0; at < bytes.size(); at += at < 4000 ? 97 : bytes.size() / 50) {
    std::string damaged = bytes;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    write_file(folder / "b", damaged);
    INFO("byte " << at);
    CHECK_THAT(refusal([&] { read_checkpoint(folder / "b"); }), contains_text(folder / "b"));
  }
  write_file(folder / "b", bytes.substr(0, bytes.size() / 2));
  CHECK_THAT(refusal([&] { read_checkpoint(folder / "b"); }), contains_text("truncated"));
  save_safetensors(folder / "b", SafeTensors{});
  CHECK_THAT(refusal([&] { read_checkpoint(folder / "b"); }), contains_text("'format' is missing"));
}

TEST_CASE("checkpoint: the last one is followed by the one before it", "[checkpoint]") {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path.string());
  Subject subject(1);
  TrainState state = example_state();
  CHECK_THAT(refusal([&] { checkpoints.read_last(); }), contains_text("no checkpoint"));
  for (int64_t step = 1; step <= 3; ++step) {
    state.step = step;
    checkpoints.save_last(*subject.model, *subject.optimizer, state);
    CHECK(checkpoints.read_last().checkpoint.state.step == step);
    if (step > 1) CHECK(read_checkpoint(checkpoints.previous()).state.step == step - 1);
  }
  CHECK(std::distance(fs::directory_iterator(folder.path), {}) == 2);

  const std::string sound = read_file(checkpoints.last());
  write_file(checkpoints.last(), sound.substr(0, sound.size() - 5));
  const std::string message = refusal([&] { checkpoints.read_last(); });
  CHECK_THAT(message,
             contains_text(checkpoints.last()) && contains_text("truncated") &&
                 contains_text("cp " + shell_path(checkpoints.previous()) + " " + shell_path(checkpoints.last())) &&
                 contains_text("of step 2"));
  fs::copy_file(checkpoints.previous(), checkpoints.last(), fs::copy_options::overwrite_existing);
  CHECK(checkpoints.read_last().checkpoint.state.step == 2);

  write_file(checkpoints.last(), "");
  write_file(checkpoints.previous(), "");
  CHECK_THAT(refusal([&] { checkpoints.read_last(); }), contains_text("--overwrite"));
  checkpoints.remove_all();
  CHECK(fs::is_empty(folder.path));
}

TEST_CASE("checkpoint: whatever a power cut leaves, the newest sound one is read", "[checkpoint]") {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path.string());
  const std::string next = folder / "next.safetensors";
  Subject subject(1);
  const auto file_of_step = [&](int64_t step) {
    TrainState state = example_state();
    state.step = step;
    save_checkpoint(folder / "x", *subject.model, *subject.optimizer, state);
    return read_file(folder / "x");
  };
  const std::string one = file_of_step(1), two = file_of_step(2), three = file_of_step(3), cut = three.substr(0, 500);
  fs::remove(folder / "x");
  struct State {
    std::string last, next, previous;  // "": not there
    int64_t step;                      // that is read, 0: refused
    std::string words;
  };
  const std::vector<State> states{{two, "", one, 2, ""},
                                  {two, three, one, 3, "next.safetensors is newer than"},
                                  {two, two, one, 2, ""},
                                  {two, one, "", 2, ""},
                                  {two, cut, one, 2, ""},
                                  {two, "", cut, 2, ""},
                                  {"", one, "", 1, "next.safetensors is sound, and there is no"},
                                  {"", "", one, 1, "the run goes on from"},
                                  {"", cut, one, 1, "the run goes on from"},
                                  {cut, three, two, 0, "the one that was being written is sound and of step 3"},
                                  {cut, "", two, 0, "the one before it is sound and of step 2"},
                                  {cut, "", "", 0, "--overwrite starts the run anew"},
                                  {"", cut, cut, 0, "is missing"},
                                  {"", "", "", 0, "there is no checkpoint to go on from"}};
  for (const State& state : states) {
    const auto put = [](const std::string& file, const std::string& bytes) {
      fs::remove(file);
      if (!bytes.empty()) write_file(file, bytes);
    };
    put(checkpoints.last(), state.last);
    put(next, state.next);
    put(checkpoints.previous(), state.previous);
    CHECK(checkpoints.empty() == (state.last + state.next + state.previous).empty());
    if (state.step == 0) {
      CHECK_THAT(refusal([&] { checkpoints.read_last(); }), contains_text(state.words));
      continue;
    }
    const Resumable found = checkpoints.read_last();
    INFO(found.warning);
    CHECK(found.checkpoint.state.step == state.step);
    CHECK(found.warning.empty() == state.words.empty());
    CHECK_THAT(found.warning, contains_text(state.words));
    checkpoints.settle(found.checkpoint.file);
    CHECK(!fs::exists(next));
    CHECK(checkpoints.read_last().checkpoint.state.step == state.step);
  }
}

TEST_CASE("checkpoint: a file that cannot be read is no damaged one", "[checkpoint]") {
  const TemporaryFolder folder;
  const CheckpointFolder checkpoints(folder.path.string());
  Subject subject(1);
  save_checkpoint(checkpoints.previous(), *subject.model, *subject.optimizer, example_state());
  fs::create_symlink("last.safetensors", checkpoints.last());  // ELOOP
  for (const bool asks : {false, true}) {
    try {
      if (asks) {
        checkpoints.empty();
      } else {
        checkpoints.read_last();
      }
      FAIL("accepted");
    } catch (const UserError& error) {
      FAIL(error.what());
    } catch (const Error& error) {
      CHECK_THAT(std::string(error.what()), contains_text("cannot be read") && contains_text("nothing was changed"));
    }
  }
}

TEST_CASE("checkpoint: the first non-finite parameter or buffer is named", "[checkpoint]") {
  Subject subject(1);
  CHECK(first_non_finite(*subject.model).empty());
  subject.model->buffers().back()->value.data<float>()[0] = std::numeric_limits<float>::infinity();
  CHECK(first_non_finite(*subject.model) == subject.model->buffers().back()->name);
  Tensor weight = subject.model->parameters()[3]->var.value();
  weight.data<float>()[weight.numel() - 1] = std::nanf("");
  CHECK(first_non_finite(*subject.model) == subject.model->parameters()[3]->name);
}

}  // namespace luq
