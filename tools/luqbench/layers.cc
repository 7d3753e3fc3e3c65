#include <cstring>
#include <iostream>
#include <oneapi/dnnl/dnnl.hpp>

#include "kernels/kernels.h"
#include "luq/autograd/ctx.h"
#include "luq/core/error.h"
#include "luq/core/machine.h"
#include "luq/core/rng.h"
#include "luq/models/registry.h"
#include "tools/luqbench/bench.h"

namespace luq::bench {
namespace {

using dnnl::memory;

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

Tensor random_codes(int64_t rows, int64_t cols, Format format, uint64_t seed) {
  Tensor codes = Tensor::empty({rows * packed_row_bytes(cols)}, DType::uint8);
  RngStream random(make_rng_key(seed, to_string(format)));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      uint32_t code = static_cast<uint32_t>(random.uniform() * 16) & 15;
      if ((format == Format::int4 || format == Format::fp4) && code == 8) code = 0;  // -8 and -0 are no codes
      uint8_t& byte = codes.data<uint8_t>()[row * packed_row_bytes(cols) + col / 2];
      byte = static_cast<uint8_t>(col % 2 == 0 ? code : byte | code << 4);
    }
  }
  return codes;
}

int64_t value_at(const Tensor& codes, int64_t row, int64_t col, int64_t cols, Format format) {
  return kernels::decode(format, kernels::load_code(codes.data<uint8_t>() + row * packed_row_bytes(cols), col));
}

struct Operands {
  ConvShape shape;
  Tensor x, w, dy;  // codes
  Tensor y, dx, dw;

  explicit Operands(const ConvShape& s)
      : shape(s),
        x(random_codes(s.n * s.h * s.w, s.c, Format::uint4, 1)),
        w(random_codes(s.o * s.kh * s.kw, s.c_group(), Format::int4, 2)),
        dy(random_codes(s.n * s.oh() * s.ow(), s.o, Format::fp4, 3)),
        y(Tensor::zeros({s.y_size()})),
        dx(Tensor::zeros({s.x_size()})),
        dw(Tensor::zeros({s.w_size()})) {}

  void forward(const Kernels& k) {
    k.qconv_forward({.shape = shape,
                     .x = x.data<uint8_t>(),
                     .x_format = Format::uint4,
                     .w = w.data<uint8_t>(),
                     .w_format = Format::int4,
                     .scale = 1,
                     .bias = nullptr,
                     .y = y.data<float>(),
                     .sums = nullptr});
  }
  void backward_data(const Kernels& k) {
    k.qconv_backward_data({.shape = shape,
                           .dy = dy.data<uint8_t>(),
                           .dy_format = Format::fp4,
                           .w = w.data<uint8_t>(),
                           .w_format = Format::int4,
                           .scale = 1,
                           .dx = dx.data<float>(),
                           .sums = nullptr});
  }
  void update(const Kernels& k) {
    k.qconv_backward_weight({.shape = shape,
                             .dy = dy.data<uint8_t>(),
                             .dy_format = Format::fp4,
                             .x = x.data<uint8_t>(),
                             .x_format = Format::uint4,
                             .scale = 1,
                             .dw = dw.data<float>(),
                             .sums = nullptr});
  }

  // The pixel of x that the tap of this pixel of y reads; false outside the image.
  bool meets(int64_t oy, int64_t ox, int64_t ky, int64_t kx, int64_t& iy, int64_t& ix) const {
    iy = oy * shape.stride_h - shape.pad_h + ky * shape.dilation_h;
    ix = ox * shape.stride_w - shape.pad_w + kx * shape.dilation_w;
    return iy >= 0 && iy < shape.h && ix >= 0 && ix < shape.w;
  }
  int64_t x_at(int64_t n, int64_t iy, int64_t ix, int64_t c) const {
    return value_at(x, (n * shape.h + iy) * shape.w + ix, c, shape.c, Format::uint4);
  }
  int64_t w_at(int64_t o, int64_t ky, int64_t kx, int64_t c) const {
    return value_at(w, (o * shape.kh + ky) * shape.kw + kx, c, shape.c_group(), Format::int4);
  }
  int64_t dy_at(int64_t n, int64_t oy, int64_t ox, int64_t o) const {
    return value_at(dy, (n * shape.oh() + oy) * shape.ow() + ox, o, shape.o, Format::fp4);
  }

  // A few results of each phase against the definition.
  void check(const Kernels& k) {
    forward(k);
    backward_data(k);
    update(k);
    const ConvShape& s = shape;
    RngStream random(make_rng_key(9, "samples"));
    const auto draw = [&](int64_t size) {
      return std::min(static_cast<int64_t>(random.uniform() * static_cast<float>(size)), size - 1);
    };
    for (int sample = 0; sample < 24; ++sample) {
      const int64_t n = draw(s.n), o = draw(s.o), ci = draw(s.c_group()), group = o / s.o_group();
      const int64_t c = group * s.c_group() + ci, y0 = draw(s.oh()), x0 = draw(s.ow()), ky0 = draw(s.kh),
                    kx0 = draw(s.kw);
      int64_t sum_y = 0, sum_w = 0, sum_x = 0, iy = 0, ix = 0;
      for (int64_t ky = 0; ky < s.kh; ++ky) {
        for (int64_t kx = 0; kx < s.kw; ++kx) {
          if (!meets(y0, x0, ky, kx, iy, ix)) continue;
          for (int64_t i = 0; i < s.c_group(); ++i)
            sum_y += x_at(n, iy, ix, group * s.c_group() + i) * w_at(o, ky, kx, i);
        }
      }
      for (int64_t image = 0; image < s.n; ++image) {
        for (int64_t oy = 0; oy < s.oh(); ++oy) {
          for (int64_t ox = 0; ox < s.ow(); ++ox) {
            if (meets(oy, ox, ky0, kx0, iy, ix)) sum_w += x_at(image, iy, ix, c) * dy_at(image, oy, ox, o);
          }
        }
      }
      const int64_t row = draw(s.h), column = draw(s.w);
      for (int64_t ky = 0; ky < s.kh; ++ky) {
        for (int64_t kx = 0; kx < s.kw; ++kx) {
          const int64_t at_y = row + s.pad_h - ky * s.dilation_h, at_x = column + s.pad_w - kx * s.dilation_w;
          if (at_y % s.stride_h != 0 || at_x % s.stride_w != 0) continue;
          const int64_t oy = at_y / s.stride_h, ox = at_x / s.stride_w;
          if (at_y < 0 || at_x < 0 || oy >= s.oh() || ox >= s.ow()) continue;
          for (int64_t i = 0; i < s.o_group(); ++i)
            sum_x += dy_at(n, oy, ox, group * s.o_group() + i) * w_at(group * s.o_group() + i, ky, kx, ci);
        }
      }
      const auto expect = [&](const char* phase, float got, int64_t sum) {
        if (got != static_cast<float>(sum)) {
          fail("[luqbench] {} of {}x{}x{}x{} to {}: got {}, expected {}: not timed", phase, s.n, s.h, s.w, s.c, s.o,
               got, sum);
        }
      };
      expect("forward", y.data<float>()[((n * s.oh() + y0) * s.ow() + x0) * s.o + o], sum_y);
      expect("update", dw.data<float>()[((o * s.kh + ky0) * s.kw + kx0) * s.c_group() + ci], sum_w);
      expect("backward", dx.data<float>()[((n * s.h + row) * s.w + column) * s.c + c], sum_x);
    }
  }
};

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

// oneDNN's u8 x s8 -> s32 on the same size, with operands in the layouts it asks for.
struct Peer {
  dnnl::primitive primitive;
  std::unordered_map<int, memory> arguments;
  void run() {
    static dnnl::stream stream(engine());
    primitive.execute(stream, arguments);
    stream.wait();
  }
};

memory filled(const memory::desc& desc) {
  memory m(desc, engine());
  std::memset(m.get_data_handle(), 1, desc.get_size());
  return m;
}

Peer matmul_peer(int64_t rows, int64_t columns, int64_t terms) {
  using Type = memory::data_type;
  using Tag = memory::format_tag;
  const memory::desc a({rows, terms}, Type::u8, Tag::ab), b({terms, columns}, Type::s8, Tag::any),
      c({rows, columns}, Type::s32, Tag::ab);
  const dnnl::matmul::primitive_desc desc({a, b, c}, engine());
  return {dnnl::matmul(desc),
          {{DNNL_ARG_SRC, filled(a)}, {DNNL_ARG_WEIGHTS, filled(desc.weights_desc())}, {DNNL_ARG_DST, filled(c)}}};
}

Peer conv_peer(const ConvShape& s) {
  using Type = memory::data_type;
  using Tag = memory::format_tag;
  const memory::desc x({s.n, s.c, s.h, s.w}, Type::u8, Tag::nhwc), y({s.n, s.o, s.oh(), s.ow()}, Type::s32, Tag::nhwc);
  const memory::desc w(
      s.groups == 1 ? memory::dims{s.o, s.c, s.kh, s.kw} : memory::dims{s.groups, s.o_group(), s.c_group(), s.kh, s.kw},
      Type::s8, Tag::any);
  const dnnl::convolution_forward::primitive_desc desc({dnnl::prop_kind::forward_inference,
                                                        dnnl::algorithm::convolution_direct,
                                                        x,
                                                        w,
                                                        y,
                                                        {s.stride_h, s.stride_w},
                                                        {s.dilation_h - 1, s.dilation_w - 1},
                                                        {s.pad_h, s.pad_w},
                                                        {s.pad_h, s.pad_w}},
                                                       engine());
  return {dnnl::convolution_forward(desc),
          {{DNNL_ARG_SRC, filled(x)}, {DNNL_ARG_WEIGHTS, filled(desc.weights_desc())}, {DNNL_ARG_DST, filled(y)}}};
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
  std::cout << fmt::format("{:<38}{:>5}  {:<9}{:>9}{:>9}{:>9}{:>12}{:>9}\n", "shape", "count", "phase", "ms", "GOP/s",
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
      std::cout << (peer > 0 ? fmt::format("{:>12.0f}{:>9.2f}\n", ops / peer * 1e-9, peer / taken)
                             : fmt::format("{:>12}{:>9}\n", "-", "-"))
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
