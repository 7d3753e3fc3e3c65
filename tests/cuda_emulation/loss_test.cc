// kernels/cuda/loss.cu against the CPU's reference: within bounds, and right rows counted exactly.
#include <cmath>

#include "kernels/cuda/tables.h"
#include "tests/catch.h"
#include "tests/cuda_emulation/emulation.h"
#include "tests/cuda_emulation/on_device.h"

using namespace luq;
using namespace luq::kernels;
using namespace luq::test;

namespace {

// Within tolerance of 1 and of the expected value; NaN where NaN is expected.
int64_t far_apart(const std::vector<float>& got, const std::vector<float>& expected, double tolerance,
                  double relative) {
  int64_t wrong = got.size() != expected.size();
  for (size_t i = 0; i < expected.size(); ++i) {
    const double a = static_cast<double>(got[i]), b = static_cast<double>(expected[i]);
    if (std::isnan(b) ? !std::isnan(a) : a != b && !(std::fabs(a - b) <= tolerance + relative * std::fabs(b))) ++wrong;
  }
  return wrong;
}

}  // namespace

TEST_CASE("cuda: cross-entropy is ref's", "[cuda][loss]") {
  Kernels table;
  cuda::add_loss(table);
  const Kernels ref = cpu_kernel_tables().front().table;
  std::mt19937 random(13);
  for (const auto& [rows, classes] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 10}, {1, 1}, {3, 10}, {37, 10}, {9, 256}, {9, 257}, {7, 1000}}) {
    for (const float spread : {0.1f, 3.0f, 30.0f}) {
      std::vector<float> logits = gaussian(rows * classes, random);
      for (float& value : logits) value *= spread;
      std::vector<int32_t> labels(static_cast<size_t>(rows)), others(labels.size());
      std::vector<float> weights(labels.size());
      for (size_t i = 0; i < labels.size(); ++i) {
        labels[i] = static_cast<int32_t>(random() % static_cast<uint64_t>(classes));
        others[i] = i % 5 == 0 ? labels[i] : static_cast<int32_t>(random() % static_cast<uint64_t>(classes));
        weights[i] = static_cast<float>(random() % 16) / 15.0f;
        if (i % 3 == 0) logits[i * static_cast<size_t>(classes) + static_cast<size_t>(labels[i])] = 4 * spread;
      }
      const OnDevice<float> device_logits(logits), device_weights(weights);
      const OnDevice<int32_t> device_labels(labels), device_others(others);
      for (int flags = 0; flags < 8; ++flags) {
        const bool mixed = flags & 1;
        const float smoothing = flags & 2 ? 0.1f : 0.0f;
        const bool partly = flags & 4;
        INFO(rows << "x" << classes << ", spread " << spread << ", flags " << flags);
        emulation::set_seed(static_cast<uint64_t>(flags));
        std::vector<float> loss(labels.size(), 7.0f), dlogits(logits.size(), 7.0f);
        const OnDevice<float> to_loss(loss), to_dlogits(dlogits);
        int64_t expected = -1, correct = -1;
        CrossEntropyArgs a{.logits = logits.data(),
                           .labels = labels.data(),
                           .rows = rows,
                           .classes = classes,
                           .label_smoothing = smoothing,
                           .loss = loss.data(),
                           .dlogits = dlogits.data(),
                           .gradient_scale = 0.5f,
                           .correct = &expected,
                           .other_labels = mixed ? others.data() : nullptr,
                           .label_weight = mixed ? weights.data() : nullptr};
        ref.cross_entropy(a);
        a.logits = device_logits.data();
        a.labels = device_labels.data();
        a.other_labels = mixed ? device_others.data() : nullptr;
        a.label_weight = mixed ? device_weights.data() : nullptr;
        a.loss = partly && mixed ? nullptr : to_loss.data();
        a.dlogits = partly && !mixed ? nullptr : to_dlogits.data();
        a.correct = partly ? nullptr : &correct;
        table.cross_entropy(a);
        if (a.correct != nullptr) CHECK(correct == expected);
        if (a.dlogits != nullptr) CHECK(far_apart(to_dlogits.host(), dlogits, 1.5e-7, 1e-6) == 0);
        if (a.loss != nullptr) CHECK(far_apart(to_loss.host(), loss, 1e-7, 1e-6) == 0);
      }
    }
  }
}

TEST_CASE("cuda: cross-entropy of ties, infinities and NaN is ref's", "[cuda][loss]") {
  Kernels table;
  cuda::add_loss(table);
  const Kernels ref = cpu_kernel_tables().front().table;
  std::mt19937 random(14);
  for (const int64_t classes : {40, 300}) {
    const int64_t rows = 12;
    std::vector<float> logits = gaussian(rows * classes, random);
    const auto at = [&](int64_t row, int64_t k) -> float& { return logits[static_cast<size_t>(row * classes + k)]; };
    at(0, 3) = at(0, 35) = at(0, 17) = 9;  // ties
    at(1, 0) = NAN;                        // the first
    at(2, 20) = NAN;                       // another
    at(3, 11) = INFINITY;                  // the largest
    at(4, 11) = -INFINITY;                 // a target of 0
    for (int64_t k = 0; k < classes; ++k) at(5, k) = -INFINITY, at(6, k) = NAN, at(7, k) = 2;
    at(8, 7) = 40;  // a loss near 0
    at(9, 7) = 15;
    std::vector<int32_t> labels{17, 0, 0, 11, 5, 0, 0, 0, 7, 7, 1, 2};
    const OnDevice<float> device_logits(logits);
    const OnDevice<int32_t> device_labels(labels);
    std::vector<float> loss(static_cast<size_t>(rows)), dlogits(logits.size());
    const OnDevice<float> to_loss(loss), to_dlogits(dlogits);
    int64_t expected = -1, correct = -1;
    ref.cross_entropy(
        {logits.data(), labels.data(), rows, classes, 0.0f, loss.data(), dlogits.data(), 1.0f, &expected});
    table.cross_entropy({device_logits.data(), device_labels.data(), rows, classes, 0.0f, to_loss.data(),
                         to_dlogits.data(), 1.0f, &correct});
    CHECK(correct == expected);
    // Of a loss near 0 the reference's double keeps 1e-14; a difference of logits of up to 44 rounds to float32.
    CHECK(far_apart(to_loss.host(), loss, 2e-14, 4e-6) == 0);
    CHECK(far_apart(to_dlogits.host(), dlogits, 2e-14, 4e-6) == 0);
  }
}
