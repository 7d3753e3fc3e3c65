#include <cstring>
#include <iostream>

#include "kernels/kernels.h"
#include "luq/autograd/ctx.h"
#include "luq/core/error.h"
#include "luq/core/machine.h"
#include "luq/models/registry.h"
#include "tools/luqbench/bench.h"
#include "tools/luqbench/operands.h"
#include "tools/luqbench/peers.h"

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
      if (layer.shape == a.shape) {
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

// The rate of the machine that operations are held against. 0: not known.
struct Limits {
  std::string text;
  double int8 = 0;  // operations a second
};

Limits limits_of(Device device, const Kernels& kernels) {
  if (device.type == DeviceType::cpu) {
    const MachineLimits machine = probe_machine(kernels);
    return {to_string(machine), machine.int8};
  }
  constexpr int64_t kSize = 8192;
  Limits limits{describe_cuda() + "; no cuBLASLt in this build", 0};
  if (const Peer peer = cublaslt_int8_matmul(kSize, kSize, kSize)) {
    limits.int8 = 2.0 * static_cast<double>(kSize) * kSize * kSize / time_on(device, peer);
    limits.text =
        fmt::format("{}; cuBLASLt int8 {:.0f} GOP/s in a product of {}", describe_cuda(), limits.int8 * 1e-9, kSize);
  }
  return limits;
}

// The library's int8 products that do as many multiply-adds as the product.
std::vector<Peer> peers_of(Device device, const ConvShape& s, int product) {
  const bool on_cpu = device.type == DeviceType::cpu;
  std::vector<Peer> peers;
  if (product == 0 && on_cpu) peers.push_back(onednn_conv(s));
  if (s.groups > 1) return peers;
  const int64_t taps = s.kh * s.kw;
  // The multiply-adds of a strided convolution spread over all pixels of x.
  const int64_t spread = std::max<int64_t>(1, s.macs() / (s.n * s.h * s.w * s.c));
  const auto matmul = on_cpu ? onednn_matmul : cublaslt_int8_matmul;
  const Peer peer = product == 0   ? matmul(s.n * s.oh() * s.ow(), s.o, taps * s.c)
                    : product == 1 ? matmul(s.n * s.h * s.w, s.c, spread)
                                   : matmul(taps * s.c, s.o, s.n * s.oh() * s.ow());
  if (peer) peers.push_back(peer);
  return peers;
}

struct Product {
  const char* name;
  double ours = 0, peers = 0;  // seconds of all layers
};

}  // namespace

Json bench_layers(const LayersOptions& options) {
  if (options.repeats < 1) fail_user("[luqbench] --repeats: expected 1 or more, got {}", options.repeats);
  const Device device = parse_device(options.device);
  const bool on_cpu = device.type == DeviceType::cpu;
  const std::string library = on_cpu ? "onednn" : "cublaslt", library_name = on_cpu ? "oneDNN" : "cuBLASLt";
  const Kernels& kernels = kernels_for(device);
  const Limits machine = limits_of(device, kernels);
  std::cout << fmt::format("machine  {}\n{}, batch {}, {}x{}x{}; median of {}, in turns with {}\n\n", machine.text,
                           options.model, options.batch, options.image_size, options.image_size, options.channels,
                           options.repeats, library_name);
  std::cout << fmt::format("{:<38}{:>5}  {:<17}{:>9}{:>9}{:>9}{:>16}{:>9}\n", "shape", "count", "product", "ms",
                           "GOP/s", "of peak", library_name + " GOP/s", "ratio");
  Json json;
  Product products[3] = {{"forward"}, {"backward_data"}, {"backward_weight"}};
  double operations = 0;
  bool with_peers = false;
  for (const Layer& layer : layers_of(options)) {
    const ConvShape& s = layer.shape;
    LayerOperands operands(s, device);
    operands.check(kernels);
    const double ops = 2.0 * static_cast<double>(s.macs());
    operations += ops * static_cast<double>(layer.count);
    const std::string shape = fmt::format("{}x{}x{}x{} -> {}, {}x{} stride {}{}", s.n, s.h, s.w, s.c, s.o, s.kh, s.kw,
                                          s.stride_h, s.groups > 1 ? fmt::format(" groups {}", s.groups) : "");
    for (int product = 0; product < 3; ++product) {
      const std::vector<Peer> peers = peers_of(device, s, product);
      const auto run = [&] {
        if (product == 0) operands.forward(kernels);
        if (product == 1) operands.backward_data(kernels);
        if (product == 2) operands.backward_weight(kernels);
      };
      run();
      for (const Peer& peer : peers) peer();
      std::vector<double> ours;
      std::vector<std::vector<double>> theirs(peers.size());
      for (int64_t repeat = 0; repeat < options.repeats; ++repeat) {
        ours.push_back(time_on(device, run));
        for (size_t i = 0; i < peers.size(); ++i) theirs[i].push_back(time_on(device, peers[i]));
      }
      const double taken = median(ours);
      double peer = 0;
      for (const std::vector<double>& times : theirs) peer = peer == 0 ? median(times) : std::min(peer, median(times));
      with_peers = with_peers || peer > 0;
      products[product].ours += taken * static_cast<double>(layer.count);
      products[product].peers += (peer > 0 ? peer : taken) * static_cast<double>(layer.count);
      std::cout << fmt::format("{:<38}{:>5}  {:<17}{:>9.2f}{:>9.0f}{:>9.2f}", product == 0 ? shape : "",
                               product == 0 ? std::to_string(layer.count) : "", products[product].name, taken * 1e3,
                               ops / taken * 1e-9, machine.int8 > 0 ? ops / taken / machine.int8 : 0.0);
      std::cout << (peer > 0 ? fmt::format("{:>16.0f}{:>9.2f}\n", ops / peer * 1e-9, peer / taken)
                             : fmt::format("{:>16}{:>9}\n", "-", "-"))
                << std::flush;
      Json row{{"shape", shape}, {"count", layer.count}, {"product", products[product].name}, {"seconds", taken}};
      if (peer > 0) row[library + "_seconds"] = peer;
      json["layers"].push_back(std::move(row));
    }
  }
  std::cout << "\nall layers\n";
  for (const Product& product : products) {
    std::cout << fmt::format("  {:<17}{:>9.1f} ms{:>9.0f} GOP/s", product.name, product.ours * 1e3,
                             operations / product.ours * 1e-9);
    json["all"][product.name] = {{"seconds", product.ours}};
    if (with_peers) {
      std::cout << fmt::format(", {:.2f} of the peak; {} {:.0f} GOP/s, ratio {:.2f}",
                               machine.int8 > 0 ? operations / product.ours / machine.int8 : 0.0, library_name,
                               operations / product.peers * 1e-9, product.peers / product.ours);
      json["all"][product.name][library + "_seconds"] = product.peers;
      json["all"][product.name]["ratio"] = product.peers / product.ours;
    }
    std::cout << "\n";
  }
  return json;
}

}  // namespace luq::bench
