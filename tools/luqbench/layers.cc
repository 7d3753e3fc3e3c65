#include <cstring>
#include <iostream>

#include "kernels/kernels.h"
#include "luq/autograd/ctx.h"
#include "luq/core/error.h"
#include "luq/core/machine.h"
#include "luq/models/registry.h"
#include "tools/luqbench/bench.h"
#include "tools/luqbench/onednn_peers.h"
#include "tools/luqbench/operands.h"

namespace luq::bench {
namespace {

struct Layer {
  ConvShape shape;
  int64_t count = 0;  // layers of this shape
};

// The shapes of the model's quantised convolutions: what its forward pass asks of the kernel.
std::vector<Layer> layers_of(const LayersOptions& options) {
  static std::vector<Layer> found;
  found.clear();
  Kernels kernels = kernels_for({});
  kernels.qconv_forward.run = [](const kernels::QConvForwardArgs& a) {
    std::memset(a.y.data, 0, static_cast<size_t>(a.shape.y_size()) * sizeof(float));
    for (Layer& layer : found) {
      if (std::memcmp(&layer.shape, &a.shape, sizeof(ConvShape)) == 0) {
        ++layer.count;
        return;
      }
    }
    found.push_back({a.shape, 1});
  };
  const auto model = make_model(options.model, {options.channels, options.classes, options.image_size}, 0);
  QuantPolicy policy;
  policy.spec = luq_quantization();
  const QuantPlan plan(policy, model->matmul_layers());
  Ctx ctx;
  ctx.kernels = &kernels;
  ctx.quant = &plan;
  model->forward(ctx, Var(Tensor::zeros({1, options.image_size, options.image_size, options.channels})));
  for (Layer& layer : found) layer.shape.n = options.batch;
  return found;
}

struct Phase {
  const char* name;
  double ours = 0, peers = 0;  // seconds of all layers
};

}  // namespace

Json bench_layers(const LayersOptions& options) {
  if (options.repeats < 1) fail_user("[luqbench] --repeats: expected 1 or more, got {}", options.repeats);
  const Kernels& kernels = kernels_for({});
  const MachineLimits machine = probe_machine(kernels);
  std::cout << fmt::format("machine  {}\n{}, batch {}, {}x{}x{}; median of {}, in turns with oneDNN\n\n",
                           to_string(machine), options.model, options.batch, options.image_size, options.image_size,
                           options.channels, options.repeats);
  std::cout << fmt::format("{:<38}{:>5}  {:<9}{:>9}{:>9}{:>9}{:>14}{:>9}\n", "shape", "count", "phase", "ms", "GOP/s",
                           "of peak", "oneDNN GOP/s", "ratio");
  Json json;
  Phase phases[3] = {{"forward"}, {"backward"}, {"update"}};
  double operations = 0;
  for (const Layer& layer : layers_of(options)) {
    const ConvShape& s = layer.shape;
    Operands operands(s);
    operands.check(kernels);
    const double ops = 2.0 * static_cast<double>(s.macs());
    operations += ops * static_cast<double>(layer.count);
    const std::string shape = fmt::format("{}x{}x{}x{} -> {}, {}x{} stride {}{}", s.n, s.h, s.w, s.c, s.o, s.kh, s.kw,
                                          s.stride_h, s.groups > 1 ? fmt::format(" groups {}", s.groups) : "");
    for (int phase = 0; phase < 3; ++phase) {
      std::vector<Peer> peers;
      const int64_t taps = s.kh * s.kw;
      if (phase == 0) peers.push_back(conv_peer(s));
      if (s.groups == 1) {
        if (phase == 0) peers.push_back(matmul_peer(s.n * s.oh() * s.ow(), s.o, taps * s.c));
        // The multiply-adds of a strided convolution spread over all pixels of x.
        const int64_t terms = std::max<int64_t>(1, s.macs() / (s.n * s.h * s.w * s.c));
        if (phase == 1) peers.push_back(matmul_peer(s.n * s.h * s.w, s.c, terms));
        if (phase == 2) peers.push_back(matmul_peer(taps * s.c, s.o, s.n * s.oh() * s.ow()));
      }
      const auto run = [&] {
        if (phase == 0) operands.forward(kernels);
        if (phase == 1) operands.backward_data(kernels);
        if (phase == 2) operands.update(kernels);
      };
      run();
      for (Peer& peer : peers) peer.run();
      std::vector<double> ours;
      std::vector<std::vector<double>> theirs(peers.size());
      for (int64_t repeat = 0; repeat < options.repeats; ++repeat) {
        ours.push_back(time_once(run));
        for (size_t i = 0; i < peers.size(); ++i) theirs[i].push_back(time_once([&] { peers[i].run(); }));
      }
      const double taken = median(ours);
      double peer = 0;
      for (const std::vector<double>& times : theirs) peer = peer == 0 ? median(times) : std::min(peer, median(times));
      phases[phase].ours += taken * static_cast<double>(layer.count);
      phases[phase].peers += (peer > 0 ? peer : taken) * static_cast<double>(layer.count);
      std::cout << fmt::format("{:<38}{:>5}  {:<9}{:>9.2f}{:>9.0f}{:>9.2f}", phase == 0 ? shape : "",
                               phase == 0 ? std::to_string(layer.count) : "", phases[phase].name, taken * 1e3,
                               ops / taken * 1e-9, machine.int8 > 0 ? ops / taken / machine.int8 : 0.0);
      std::cout << (peer > 0 ? fmt::format("{:>14.0f}{:>9.2f}\n", ops / peer * 1e-9, peer / taken)
                             : fmt::format("{:>14}{:>9}\n", "-", "-"))
                << std::flush;
      Json row{{"shape", shape}, {"count", layer.count}, {"phase", phases[phase].name}, {"seconds", taken}};
      if (peer > 0) row["onednn_seconds"] = peer;
      json["layers"].push_back(std::move(row));
    }
  }
  std::cout << "\nall layers\n";
  for (const Phase& phase : phases) {
    std::cout << fmt::format(
        "  {:<9}{:>9.1f} ms{:>9.0f} GOP/s, {:.2f} of the peak; oneDNN {:.0f} GOP/s, ratio {:.2f}\n", phase.name,
        phase.ours * 1e3, operations / phase.ours * 1e-9,
        machine.int8 > 0 ? operations / phase.ours / machine.int8 : 0.0, operations / phase.peers * 1e-9,
        phase.peers / phase.ours);
    json["all"][phase.name] = {
        {"seconds", phase.ours}, {"onednn_seconds", phase.peers}, {"ratio", phase.peers / phase.ours}};
  }
  return json;
}

}  // namespace luq::bench
