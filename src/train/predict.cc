#include "luq/train/predict.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <future>
#include <limits>
#include <numeric>
#include <sstream>

#include "luq/core/convert.h"
#include "luq/core/error.h"
#include "luq/core/output_file.h"
#include "luq/core/shell.h"
#include "luq/core/text_file.h"
#include "luq/data/image.h"
#include "luq/data/transform.h"
#include "src/core/no_memory.h"
#include "src/data/image_folder.h"
#include "src/data/image_names.h"
#include "src/data/whole_file.h"
#include "src/train/experiment_parts.h"
#include "src/train/inference_model.h"
#include "src/train/text_json.h"

namespace luq {
namespace {

constexpr size_t shown_classes = 5;

std::vector<std::string> images_of(const std::string& folder, UnusedFiles& unused) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error))
    fail_user("[predict] --images {}: is not a folder{}", folder, error ? " that can be read: " + error.message() : "");
  std::vector<std::string> images = images_below(folder, unused);
  if (images.empty()) fail_user("[predict] --images {}: holds no image {}", folder, image_extensions);
  std::ranges::sort(images);
  return images;
}

std::vector<std::string> class_names(const std::string& file, const InferenceModel& model) {
  const auto classes = static_cast<size_t>(model.num_classes);
  std::vector<std::string> names;
  if (file.empty()) {
    names = model.data.class_names;
    if (names.size() == classes) return names;
    names.clear();
    for (size_t i = 0; i < classes; ++i) names.push_back(fmt::format("class {}", i));
    return names;
  }
  std::istringstream in(read_text_file("predict", file));
  for (std::string line; std::getline(in, line);) names.push_back(line);
  while (names.size() > classes && names.back().empty()) names.pop_back();
  if (names.size() != classes) {
    fail_user("[predict] --labels {}: expected {} lines, a class each, got {}", file, classes, names.size());
  }
  for (size_t i = 0; i < classes; ++i) {
    if (names[i].find_first_not_of(" \t") == std::string::npos) {
      fail_user("[predict] --labels {}:{}: expected the name of class {}, got an empty line", file, i + 1, i);
    }
  }
  return names;
}

// Image files to what the model takes; one call at a time.
class Reader {
 public:
  explicit Reader(const InferenceModel& model)
      : data_(model.data),
        transform_(model.data, transform_options(model.config)),
        buffers_(transform_.make_buffers()) {}

  // A batch of one. Throws Error.
  ImageBatch read(const std::string& file) {
    read_whole_file(file, bytes_);
    ImageBatch image = transform_.make_batch(1);
    if (!data_.encoded) decode_pixels();
    transform_.evaluation(bytes_, buffers_, image, 0);
    return image;
  }

 private:
  // The file's pixels as the data set has them, in place of its bytes.
  void decode_pixels() {
    Image decoded;
    decoder_.open(bytes_);
    if (decoder_.height() != data_.height || decoder_.width() != data_.width) {
      fail("[predict] expected an image of {}x{}, as the model was trained on, got {}x{}", data_.height, data_.width,
           decoder_.height(), decoder_.width());
    }
    decoder_.decode(decoded);
    std::vector<uint8_t> pixels;
    for (int64_t row = 0; row < decoded.height; ++row) {
      const uint8_t* rgb = decoded.pixels() + row * decoded.row_bytes;
      for (int64_t column = 0; column < decoded.width; ++column, rgb += 3) {
        if (data_.channels == 1) {  // ITU-R 601 luma in 16 bits, as PIL's convert("L")
          pixels.push_back(static_cast<uint8_t>((rgb[0] * 19595 + rgb[1] * 38470 + rgb[2] * 7471 + 0x8000) >> 16));
        } else {
          pixels.insert(pixels.end(), rgb, rgb + 3);
        }
      }
    }
    bytes_ = std::move(pixels);
  }

  const DatasetInfo& data_;
  Transform transform_;
  Transform::Buffers buffers_;
  ImageDecoder decoder_;
  std::vector<uint8_t> bytes_;
};

std::vector<Prediction::Class> largest(const float* logits, const std::vector<std::string>& names) {
  std::vector<size_t> order(names.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [logits](size_t a, size_t b) { return logits[a] > logits[b]; });
  double sum = 0;
  for (size_t i = 0; i < names.size(); ++i) sum += std::exp(static_cast<double>(logits[i]) - logits[order[0]]);
  std::vector<Prediction::Class> top;
  for (size_t i = 0; i < std::min(shown_classes, order.size()); ++i) {
    top.push_back({static_cast<int64_t>(order[i]), names[order[i]],
                   std::exp(static_cast<double>(logits[order[i]]) - logits[order[0]]) / sum});
  }
  return top;
}

void save_logits(const std::string& file, const Tensor& logits, const std::vector<std::string>& images) {
  SafeTensors content;
  content.tensors.emplace_back("logits", logits);
  content.metadata["images"] = texts_json(images).dump();
  save_safetensors(file, content);
}

}  // namespace

std::vector<Prediction> predict(const PredictOptions& options, UnusedFiles* unused) {
  std::vector<std::string> images = options.images;
  if (!options.folder.empty()) {
    UnusedFiles others;
    for (std::string& image : images_of(options.folder, others)) images.push_back(std::move(image));
    if (unused != nullptr) *unused = std::move(others);
  }
  if (images.empty()) fail_user("[predict] expected image files, or --images FOLDER");
  for (const std::string& image : options.images) {
    if (std::error_code error; std::filesystem::is_directory(image, error)) {
      fail_user("[predict] {}: expected an image file, got a folder; its images are given with --images {}", image,
                shell_path(image));
    }
  }
  if (!options.logits.empty()) {
    check_other_file("predict", "--logits", options.checkpoint, options.logits);
    for (const std::string& image : images) check_other_file("predict", "--logits", image, options.logits);
    check_output("predict", options.logits);
  }
  const InferenceModel model = load_inference_model(options.checkpoint, options.model, options.weights, options.device);
  if (model.data.channels != 1 && model.data.channels != 3) {
    fail_user("[predict] {}: was trained on images of {} channels, which no image file has", options.checkpoint,
              model.data.channels);
  }
  const std::vector<std::string> names = class_names(options.labels, model);
  Reader reader(model);

  // The next image is read while the current one runs.
  const auto read = [&](size_t index) {
    return std::async([&reader, &images, index] {
      return or_out_of_memory("[image] it is read:", [&] { return reader.read(images[index]); });
    });
  };
  Tensor all_logits =
      Tensor::full({static_cast<int64_t>(images.size()), model.num_classes}, std::numeric_limits<float>::quiet_NaN());
  std::vector<Prediction> predictions;
  std::future<ImageBatch> next = read(0);
  for (size_t i = 0; i < images.size(); ++i) {
    Prediction prediction{.image = images[i], .problem = "", .top = {}};
    std::future<ImageBatch> current = std::move(next);
    current.wait();
    if (i + 1 < images.size()) next = read(i + 1);
    try {
      Ctx ctx = model.context();
      const Var input(finish_images(*model.kernels, current.get().to(model.device), model.dtype));
      const Tensor logits = convert(*model.kernels, model.model->forward(ctx, input).value(), DType::float32).to({});
      float* row = all_logits.data<float>() + static_cast<int64_t>(i) * model.num_classes;
      std::memcpy(row, logits.raw(), static_cast<size_t>(logits.bytes()));
      if (!std::all_of(row, row + model.num_classes, [](float logit) { return std::isfinite(logit); })) {
        fail("[predict] the logits are not finite: the weights or the image are out of range");
      }
      prediction.top = largest(row, names);
    } catch (const UserError&) {
      throw;
    } catch (const OutOfMemory& error) {
      throw OutOfMemory(fmt::format("{}: {}", images[i], error.what()));
    } catch (const Error& error) {
      prediction.problem = error.what();
    }
    predictions.push_back(std::move(prediction));
  }
  if (!options.logits.empty()) save_logits(options.logits, all_logits, images);
  return predictions;
}

std::string to_text(const std::vector<Prediction>& predictions) {
  std::string text;
  for (const Prediction& prediction : predictions) {
    text += prediction.image + (prediction.problem.empty() ? "" : "\n  not read") + "\n";
    for (const Prediction::Class& entry : prediction.top) {
      text += fmt::format("  {:6.2f} %  {:>4}  {}\n", 100 * entry.probability, entry.index, entry.name);
    }
  }
  return text;
}

}  // namespace luq
