#include "src/config/schema.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <iterator>

#include "luq/core/error.h"
#include "luq/core/nearest.h"
#include "luq/core/shell.h"

namespace luq {
namespace {

constexpr int64_t kAnyLarge = int64_t{1} << 40;
constexpr const char* kBinary = "tag:yaml.org,2002:binary";  // what !!binary stands for

template <typename T>
YAML::Node scalar(const T& value) {
  return YAML::Node(fmt::format("{}", value));
}

template <typename T>
bool convert(const YAML::Node& node, T& value) {
  return node.IsScalar() && YAML::convert<T>::decode(node, value);
}

template <typename T>
YAML::Node flow_list(const std::vector<T>& values) {
  YAML::Node node(YAML::NodeType::Sequence);
  node.SetStyle(YAML::EmitterStyle::Flow);
  for (const T& value : values) node.push_back(text_node(fmt::format("{}", value)));
  return node;
}

// Whether YAML gives a text back: its emitter replaces what is no UTF-8, and a few code points that are no characters.
bool survives_yaml(const std::string& text) {
  YAML::Emitter emitter;
  emitter << YAML::DoubleQuoted << text;
  return YAML::Load(emitter.c_str()).Scalar() == text;
}

// Sets `value` to the scalar's string; what was expected when it is none.
std::string read_text(const YAML::Node& node, std::string& value) {
  if (!node.IsScalar()) return "a string";
  const std::string text = text_of(node);
  if (text.find('\0') != std::string::npos) return "a string without NUL bytes, which no path or name can hold";
  if (node.Tag() == kBinary && text.empty() && !node.Scalar().empty()) return "base64 behind !!binary";
  value = text;
  return "";
}

void emit(YAML::Emitter& out, const YAML::Node& node) {
  if (node.IsMap()) {
    out << YAML::BeginMap;
    for (const auto& pair : node) {
      out << YAML::Key << pair.first.Scalar() << YAML::Value;
      emit(out, pair.second);
    }
    out << YAML::EndMap;
  } else if (node.IsSequence()) {
    if (node.Style() == YAML::EmitterStyle::Flow) out << YAML::Flow;
    out << YAML::BeginSeq;
    for (const YAML::Node& item : node) emit(out, item);
    out << YAML::EndSeq;
  } else if (node.Tag() == kBinary) {
    out << YAML::SecondaryTag("binary") << node.Scalar();
  } else {
    // yaml-cpp leaves a carriage return bare.
    if (std::ranges::any_of(node.Scalar(), [](char c) { return c >= 0 && c < ' '; })) out << YAML::DoubleQuoted;
    out << node.Scalar();
  }
}

std::string upper_bound(int64_t high) { return high == kAnyLarge ? "" : std::to_string(high); }

// True of a number that is whole, though it may be too large for the type.
bool is_whole_number(const YAML::Node& node) {
  const std::string text = node.IsScalar() ? node.Scalar() : "";
  const size_t sign = text.starts_with('-') || text.starts_with('+') ? 1 : 0;
  return text.size() > sign && text.find_first_not_of("0123456789", sign) == std::string::npos;
}

Field integer(const std::string& key, int64_t& member, int64_t low, int64_t high, const std::string& meaning) {
  const std::string range = fmt::format("{}..{}", low, upper_bound(high));
  return {key,
          "integer",
          range,
          meaning,
          [&member, low, high, range](const YAML::Node& node) -> std::string {
            int64_t value = 0;
            if (!convert(node, value) && !is_whole_number(node)) return "an integer";
            if (!convert(node, value)) value = node.Scalar().starts_with('-') ? INT64_MIN : INT64_MAX;
            if (value > high && high == kAnyLarge) return "an integer of at most 2^40";
            if (value < low || value > high) return "an integer in " + range;
            member = value;
            return "";
          },
          [&member] { return scalar(member); }};
}

struct Interval {
  double low, high;
  std::string text;
};
const Interval kPositive{DBL_MIN, DBL_MAX, "> 0"};
const Interval kNonNegative{0, DBL_MAX, ">= 0"};
const Interval kBelowOne{0, std::nextafter(1.0, 0.0), "0 <= x < 1"};

Field number(const std::string& key, double& member, const Interval& interval, const std::string& meaning) {
  return {key,
          "number",
          interval.text,
          meaning,
          [&member, interval](const YAML::Node& node) -> std::string {
            double value = 0;
            if (!convert(node, value)) return "a number";
            if (!(value >= interval.low && value <= interval.high)) return "a number " + interval.text;
            member = value;
            return "";
          },
          [&member] { return scalar(member); }};
}

Field numbers(const std::string& key, std::vector<double>& member, const Interval& interval,
              const std::string& meaning) {
  return {key,
          "list of numbers",
          interval.text,
          meaning,
          [&member, interval](const YAML::Node& node) -> std::string {
            if (!node.IsSequence()) return "a list of numbers";
            std::vector<double> values;
            for (const YAML::Node& item : node) {
              double value = 0;
              if (!convert(item, value) || !(value >= interval.low && value <= interval.high)) {
                return "a list of numbers " + interval.text;
              }
              values.push_back(value);
            }
            member = values;
            return "";
          },
          [&member] { return flow_list(member); }};
}

Field boolean(const std::string& key, bool& member, const std::string& meaning) {
  return {key,
          "boolean",
          "true, false",
          meaning,
          [&member](const YAML::Node& node) -> std::string {
            bool value = false;
            if (!convert(node, value)) return "true or false";
            member = value;
            return "";
          },
          [&member] { return scalar(member); }};
}

Field text(const std::string& key, std::string& member, const std::string& meaning) {
  return {key,
          "string",
          "",
          meaning,
          [&member](const YAML::Node& node) { return read_text(node, member); },
          [&member] { return text_node(member); }};
}

// A file or a folder, of which ~ is the home folder. What stands for itself though it begins with ~ is !!binary.
Field path(const std::string& key, std::string& member, const std::string& meaning) {
  return {key,
          "path",
          "",
          meaning,
          [&member](const YAML::Node& node) -> std::string {
            if (node.IsNull()) return "a path (a ~ alone is YAML's word for nothing; \"~\" is the home folder)";
            std::string text;
            const std::string expected = read_text(node, text);
            if (expected.empty()) member = node.Tag() == kBinary ? text : expand_home(text);
            return expected;
          },
          [&member] {
            if (!member.starts_with('~')) return text_node(member);
            YAML::Node node(YAML::EncodeBase64(reinterpret_cast<const unsigned char*>(member.data()), member.size()));
            node.SetTag(kBinary);
            return node;
          }};
}

Field texts(const std::string& key, std::vector<std::string>& member, const std::string& meaning) {
  return {key,
          "list of strings",
          "",
          meaning,
          [&member](const YAML::Node& node) -> std::string {
            if (!node.IsSequence()) return "a list of strings";
            std::vector<std::string> values;
            for (const YAML::Node& item : node) {
              const std::string expected = read_text(item, values.emplace_back());
              if (!expected.empty()) return "a list of strings, each " + expected;
            }
            member = values;
            return "";
          },
          [&member] { return flow_list(member); }};
}

// The words of the values; their order is that of the values.
const std::string& word_of(const std::string& word) { return word; }
template <typename Value>
std::string word_of(const Value& value) {
  return to_string(value);
}

template <typename Value>
Field choice(const std::string& key, Value& member, const std::vector<Value>& values, const std::string& meaning) {
  std::vector<std::string> words;
  for (const Value& value : values) words.push_back(word_of(value));
  return {key,
          "string",
          fmt::format("{}", fmt::join(words, ", ")),
          meaning,
          [&member, values, words](const YAML::Node& node) -> std::string {
            const std::string given = node.IsScalar() ? node.Scalar() : "";
            if (const auto found = std::ranges::find(words, given); found != words.end()) {
              member = values[static_cast<size_t>(found - words.begin())];
              return "";
            }
            const std::string near = nearest(given, words);
            return fmt::format("one of {}{}", fmt::join(words, ", "),
                               near.empty() ? "" : " (did you mean " + near + "?)");
          },
          [&member] { return YAML::Node(word_of(member)); }};
}

// A format of these, or one that the program has registered, which a run of it has to find again in its own file.
Field format_choice(const std::string& key, Format& member, const std::vector<Format>& formats,
                    const std::string& meaning) {
  static constexpr Format kShipped[] = {Format::float32, Format::int4, Format::uint4, Format::fp4};
  std::vector<Format> all = formats;
  for (const Format format : all_formats()) {
    if (std::ranges::find(kShipped, format) == std::end(kShipped) && format.is_signed()) all.push_back(format);
  }
  Field field = choice(key, member, formats, meaning);
  field.read = choice(key, member, all, meaning).read;
  return field;
}

// A key that sets two members alike. Throws UserError where they are to be written and differ.
Field both(Field field, const Field& other) {
  field.read = [first = field.read, second = other.read](const YAML::Node& node) {
    const std::string expected = first(node);
    return expected.empty() ? second(node) : expected;
  };
  field.write = [key = field.key, first = field.write, second = other.write] {
    YAML::Node node = first();
    const std::string here = emitted(node), there = emitted(second());
    if (here != there) {
      fail_user(
          "[config] {}: expected the same for both products that read the gradient, as a file says it, got {} and "
          "{}",
          key, here, there);
    }
    return node;
  };
  return field;
}

Field granularity(const std::string& key) {
  return {key,
          "string",
          "per_tensor",
          "How many elements share a scale; per_tensor is the only one there is.",
          [](const YAML::Node& node) -> std::string {
            return node.IsScalar() && node.Scalar() == "per_tensor" ? "" : "per_tensor, the only granularity there is";
          },
          [] { return YAML::Node("per_tensor"); }};
}

void append_quantization(std::vector<Field>& fields, QuantPolicy& q) {
  const auto operand = [](const std::string& name, QuantSpec& spec, const std::vector<Format>& formats,
                          const std::vector<ScaleMethod>& methods, const std::string& what) {
    const std::string key = "quantization." + name;
    return std::vector<Field>{
        format_choice(key + ".format", spec.format, formats, "Format of the " + what + "; float32: not quantised."),
        choice(key + ".scale", spec.scale_method, methods,
               "How the scale of the " + what + " is found (docs/numerics.md)."),
        choice(key + ".rounding", spec.rounding, {Rounding::nearest, Rounding::stochastic},
               "Rounding of the " + what + "."),
        granularity(key + ".granularity")};
  };
  const auto append = [&](const std::vector<Field>& more) { fields.insert(fields.end(), more.begin(), more.end()); };
  using enum ScaleMethod;
  append(operand("weights", q.spec.weights, {Format::float32, Format::int4}, {sawb, max}, "weights"));
  append(operand("activations", q.spec.activations, {Format::float32, Format::int4},
                 {sawb, sawb_nonzero, reference, max},
                 "layers' inputs (unsigned 0..15 where they cannot be negative)"));
  const auto gradient = [&](QuantSpec& spec) {
    return operand("gradients", spec, {Format::float32, Format::fp4, Format::int4}, {max, sawb},
                   "gradients of the layers' outputs (fp4 with max and stochastic is LUQ)");
  };
  std::ranges::transform(gradient(q.spec.gradient_for_data), gradient(q.spec.gradient_for_weights),
                         std::back_inserter(fields), both);
  fields.push_back(
      boolean("quantization.exempt_first_conv", q.exempt_first_conv, "Leave the first convolution unquantised."));
  fields.push_back(
      boolean("quantization.exempt_last_linear", q.exempt_last_linear, "Leave the last linear layer unquantised."));
  fields.push_back(texts("quantization.exempt", q.exempt,
                         "Patterns (* and ?) of the names of further layers to leave unquantised."));
}

}  // namespace

YAML::Node text_node(const std::string& text) {
  if (survives_yaml(text)) return YAML::Node(text);
  YAML::Node node(YAML::EncodeBase64(reinterpret_cast<const unsigned char*>(text.data()), text.size()));
  node.SetTag(kBinary);
  return node;
}

std::string text_of(const YAML::Node& scalar) {
  if (scalar.Tag() != kBinary) return scalar.Scalar();
  const std::vector<unsigned char> bytes = YAML::DecodeBase64(scalar.Scalar());
  return {bytes.begin(), bytes.end()};
}

std::string emitted(const YAML::Node& node) {
  YAML::Emitter out;
  emit(out, node);
  return out.c_str();
}

std::vector<Field> schema(ExperimentConfig& c) {
  std::vector<Field> fields{
      {"seed", "integer", "0..", "Seed of initialisation, shuffling, augmentation and stochastic rounding.",
       [&c](const YAML::Node& node) -> std::string {
         uint64_t value = 0;
         if (!convert(node, value) || node.Scalar().front() == '-') return "an integer in 0..2^64-1";
         c.seed = value;
         return "";
       },
       [&c] { return scalar(c.seed); }},
      integer("threads", c.threads, 0, 4096,
              "Threads of the kernels; 0: OMP_NUM_THREADS, else all cores that the process may use. Results do not "
              "depend on it."),
      choice("device", c.device, {"cpu", "cuda"}, "Where to train; cuda needs a build with it."),
      choice("precision", c.precision, {"float32", "bfloat16"},
             "Type of activations and their gradients where they are not 4 bits, and of the matmuls that are not "
             "quantised. Weights and statistics of norms are float32 either way."),
      boolean("deterministic", c.deterministic,
              "The same weights, to the bit, for any number of threads. This version has no faster way without."),
      path("run.directory", c.run.directory, "Folder of the run; empty: runs/<name of the configuration>."),
      text("model.name", c.model.name, "Model of the zoo (required)."),
      path(
          "model.weights", c.model.weights,
          "Safetensors file to start training from: a checkpoint or a torchvision state_dict (docs/interop.md); a head "
          "of another number of classes starts anew. Empty: random weights."),
      choice("data.name", c.data.name,
             {"fashion_mnist", "mnist", "cifar10", "cifar100", "image_folder", "imagenet", "webdataset", "synthetic"},
             "Data set (required)."),
      path("data.path", c.data.path, "Folder of its files; empty: the usual places."),
      path(
          "data.val_labels", c.data.val_labels,
          "image_folder, imagenet: file of the classes of test images that lie in one folder; empty: looked for beside "
          "them under the usual names (docs/data.md)."),
      path("data.devkit_classes", c.data.devkit_classes,
           "image_folder, imagenet: file of the classes in the order of the development kit's ids, for a "
           "data.val_labels of ids."),
      path("data.train_shards", c.data.train_shards,
           "webdataset: paths of the training shards, relative to data.path, as in s-{000..146}.tar; empty: "
           "train-*.tar."),
      path("data.val_shards", c.data.val_shards, "webdataset: those of the test shards; empty: val-*.tar."),
      integer("data.num_classes", c.data.num_classes, 0, 1000000,
              "webdataset: number of classes; 0: that of classes.txt, or else one more than the largest label."),
      integer("data.workers", c.data.workers, 1, 256, "Threads that prepare batches."),
      integer("data.prefetch", c.data.prefetch, 1, 1024, "Batches kept ready."),
      integer("data.image_size", c.data.image_size, 1, 4096,
              "Image files: height and width of what the model takes. Sets of pixels keep theirs."),
      integer("data.eval_resize", c.data.eval_resize, 1, 4096,
              "Image files, evaluation: the shorter side is resized to this before the centre is cut out; "
              "data.image_size or more."),
      choice("data.broken_images", c.data.broken_images, {"error", "skip", "substitute"},
             "What becomes of an image file that cannot be read or decoded: the run stops, its batch has an image "
             "less, or another image, "
             "drawn by seed, epoch and index, stands in for it. Evaluation never substitutes: it skips."),
      boolean("data.exif_rotate", c.data.exif_rotate,
              "Turn and mirror image files as their EXIF orientation says; false: as they are stored, as torchvision."),
      boolean("data.scaled_decode", c.data.scaled_decode,
              "Training: decode crops of JPEG files at 1/2, 1/4 or 1/8 where that is still no smaller than "
              "data.image_size. Faster, but not the same pixels."),
      boolean("data.augment.random_resized_crop", c.data.augment.random_resized_crop,
              "Train on random parts of the images, resized; false: image files are placed as in evaluation."),
      numbers("data.augment.crop_scale", c.data.augment.crop_scale, {DBL_MIN, 1, "0 < x <= 1"},
              "random_resized_crop: least and largest part of the area."),
      numbers("data.augment.crop_ratio", c.data.augment.crop_ratio, kPositive,
              "random_resized_crop: least and largest width / height."),
      integer("data.augment.pad_crop", c.data.augment.pad_crop, 0, 1024,
              "Sets of pixels: zero padding before a random crop of the original size; 0: off."),
      boolean("data.augment.horizontal_flip", c.data.augment.horizontal_flip, "Mirror half of the images."),
      integer("data.augment.rand_augment.num_ops", c.data.augment.rand_augment.num_ops, 0, 100,
              "RandAugment: operations on each image, at random among torchvision's fourteen; 0: off."),
      integer("data.augment.rand_augment.magnitude", c.data.augment.rand_augment.magnitude, 0, 30,
              "RandAugment: how strong, of torchvision's 31 bins."),
      boolean("data.augment.trivial_augment", c.data.augment.trivial_augment,
              "TrivialAugmentWide: one operation on each image, of random strength."),
      number("data.augment.color_jitter.brightness", c.data.augment.color_jitter.brightness, kNonNegative,
             "Brightness times a random number in 1 - x .. 1 + x, from 0 on; 0: off."),
      number("data.augment.color_jitter.contrast", c.data.augment.color_jitter.contrast, kNonNegative,
             "Contrast likewise."),
      number("data.augment.color_jitter.saturation", c.data.augment.color_jitter.saturation, kNonNegative,
             "Saturation likewise."),
      number("data.augment.color_jitter.hue", c.data.augment.color_jitter.hue, {0, 0.5, "0 <= x <= 0.5"},
             "Hue turned by a random part in -x .. x of the colour circle; 0: off."),
      number("data.augment.lighting", c.data.augment.lighting, kNonNegative,
             "Standard deviation of AlexNet's noise along ImageNet's principal colours (0.1 there); 0: off."),
      number("data.augment.random_erasing", c.data.augment.random_erasing, {0, 1, "0 <= x <= 1"},
             "Probability of setting a random rectangle to 0 after normalisation."),
      number("data.augment.mixup_alpha", c.data.augment.mixup_alpha, kNonNegative,
             "Mixup: each batch is mixed with itself shifted by one image, in parts from Beta(x, x); 0: off. With "
             "cutmix_alpha too, each batch gets one of the two at random."),
      number("data.augment.cutmix_alpha", c.data.augment.cutmix_alpha, kNonNegative,
             "CutMix: a rectangle of each image is the neighbour's, its area from Beta(x, x); 0: off."),
      numbers("data.augment.mean", c.data.augment.mean, {-DBL_MAX, DBL_MAX, ""},
              "Per channel, subtracted from pixels in 0..1; empty: the data set's."),
      numbers("data.augment.std", c.data.augment.std, kPositive, "Per channel, divided by; empty: the data set's."),
      integer("data.synthetic.train_images", c.data.synthetic.train_images, 1, int64_t{1} << 31,
              "Training images of the synthetic set."),
      integer("data.synthetic.test_images", c.data.synthetic.test_images, 1, int64_t{1} << 31,
              "Test images of the synthetic set."),
      integer("data.synthetic.image_size", c.data.synthetic.image_size, 1, 4096, "Height and width of its images."),
      integer("data.synthetic.channels", c.data.synthetic.channels, 1, 1024, "Channels of its images."),
      integer("data.synthetic.num_classes", c.data.synthetic.num_classes, 1, 65536, "Classes of its images."),
      choice("optimizer.name", c.optimizer.name, {"sgd", "adamw"}, "Optimiser."),
      number("optimizer.lr", c.optimizer.lr, kPositive, "Base learning rate, before the schedule."),
      number("optimizer.momentum", c.optimizer.momentum, kBelowOne, "sgd: momentum."),
      boolean("optimizer.nesterov", c.optimizer.nesterov, "sgd: Nesterov momentum; needs momentum > 0."),
      number("optimizer.beta1", c.optimizer.beta1, kBelowOne, "adamw: decay of the moving average of gradients."),
      number("optimizer.beta2", c.optimizer.beta2, kBelowOne, "adamw: decay of that of their squares."),
      number("optimizer.eps", c.optimizer.eps, kNonNegative, "adamw: added to the root of the latter."),
      number("optimizer.weight_decay", c.optimizer.weight_decay, kNonNegative,
             "sgd: L2 penalty added to the gradient; adamw: decoupled, w -= lr weight_decay w."),
      boolean("optimizer.decay_norm", c.optimizer.decay_norm,
              "false: no weight decay on the parameters of norms and on biases."),
      choice("lr_scheduler.name", c.lr_scheduler.name, {"constant", "step", "cosine", "linear", "one_cycle"},
             "Shape of the learning rate over train.epochs, a function of the step."),
      number("lr_scheduler.warmup_epochs", c.lr_scheduler.warmup_epochs, kNonNegative,
             "Epochs of linear warm-up, step by step."),
      number("lr_scheduler.warmup_start_factor", c.lr_scheduler.warmup_start_factor, {0, 1, "0 <= x <= 1"},
             "The warm-up starts at this times the rate."),
      numbers("lr_scheduler.milestones", c.lr_scheduler.milestones, kPositive,
              "step: epochs at which the rate is multiplied by gamma, rising."),
      number("lr_scheduler.gamma", c.lr_scheduler.gamma, kPositive, "step: factor at each milestone."),
      number("lr_scheduler.min_lr", c.lr_scheduler.min_lr, kNonNegative, "cosine, linear: the last rate."),
      number("lr_scheduler.pct_start", c.lr_scheduler.pct_start, {DBL_MIN, std::nextafter(1.0, 0.0), "0 < x < 1"},
             "one_cycle: the part of the run in which the rate rises."),
      number("lr_scheduler.div_factor", c.lr_scheduler.div_factor, {1, DBL_MAX, ">= 1"},
             "one_cycle: the first rate is lr divided by this."),
      number("lr_scheduler.final_div_factor", c.lr_scheduler.final_div_factor, {1, DBL_MAX, ">= 1"},
             "one_cycle: the last rate is the first one divided by this."),
      integer("train.epochs", c.train.epochs, 1, kAnyLarge, "Passes over the training images; the schedule's horizon."),
      integer("train.max_steps", c.train.max_steps, 0, kAnyLarge,
              "End after this many steps, as a regular end; 0: no limit. The schedule's horizon does not change."),
      integer("train.batch_size", c.train.batch_size, 1, kAnyLarge, "Images per step."),
      integer("train.checkpoint_every", c.train.checkpoint_every, 0, kAnyLarge,
              "Steps between checkpoints; 0: one each epoch."),
      integer("train.log_every", c.train.log_every, 1, kAnyLarge, "Steps between lines of the log."),
      number("train.label_smoothing", c.train.label_smoothing, kBelowOne, "Label smoothing of the training loss."),
      number("train.ema_decay", c.train.ema_decay, kBelowOne,
             "Decay, per step, of a moving average of the weights and running statistics, which evaluations report "
             "too and best.safetensors is chosen by; 0: no average."),
      integer("train.micro_batches", c.train.micro_batches, 1, 65535,
              "Equal parts of a batch that run one after the other, for less memory; their gradients are averaged for "
              "one update. Batch norm and running activation scales see each part by itself."),
      boolean(
          "train.recompute", c.train.recompute,
          "Do not keep the outputs of quantised convolutions for the backward pass of the batch norm behind them, "
          "but make them again from their 4-bit operands: the same weights to the bit, in a fraction of the memory, "
          "for one more forward product."),
      number("train.clip_grad_norm", c.train.clip_grad_norm, kNonNegative,
             "The gradients' common L2 norm is scaled down to this where it is larger; 0: off."),
      integer("eval.batch_size", c.eval.batch_size, 1, kAnyLarge, "Images per batch of an evaluation."),
      integer("eval.max_images", c.eval.max_images, 0, kAnyLarge,
              "Evaluate on so many images, evenly spread over the set; 0: all."),
  };
  append_quantization(fields, c.quantization);
  return fields;
}

}  // namespace luq
