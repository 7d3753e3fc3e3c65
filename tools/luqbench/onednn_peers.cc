#include <cstring>
#include <unordered_map>
#include <utility>

#include "kernels/cpu/onednn_api.h"
#include "tools/luqbench/peers.h"

namespace luq::bench {
namespace {

using dnnl::memory;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

memory filled(const memory::desc& desc) {
  memory m(desc, engine());
  std::memset(m.get_data_handle(), 1, desc.get_size());
  return m;
}

Peer executing(dnnl::primitive primitive, std::unordered_map<int, memory> arguments) {
  return [primitive = std::move(primitive), arguments = std::move(arguments)] {
    static dnnl::stream stream(engine());
    primitive.execute(stream, arguments);
    stream.wait();
  };
}

}  // namespace

Peer onednn_matmul(int64_t rows, int64_t columns, int64_t terms) {
  using Type = memory::data_type;
  using Tag = memory::format_tag;
  const memory::desc a({rows, terms}, Type::u8, Tag::ab), b({terms, columns}, Type::s8, Tag::any),
      c({rows, columns}, Type::s32, Tag::ab);
  const auto desc = onednn::describe<dnnl::matmul>(engine(), {}, a, b, c);
  return executing(
      dnnl::matmul(desc),
      {{DNNL_ARG_SRC, filled(a)}, {DNNL_ARG_WEIGHTS, filled(desc.weights_desc())}, {DNNL_ARG_DST, filled(c)}});
}

Peer onednn_conv(const ConvShape& s) {
  using Type = memory::data_type;
  using Tag = memory::format_tag;
  const memory::desc x({s.n, s.c, s.h, s.w}, Type::u8, Tag::nhwc), y({s.n, s.o, s.oh(), s.ow()}, Type::s32, Tag::nhwc);
  const memory::desc w(
      s.groups == 1 ? memory::dims{s.o, s.c, s.kh, s.kw} : memory::dims{s.groups, s.o_group(), s.c_group(), s.kh, s.kw},
      Type::s8, Tag::any);
  const memory::dims stride{s.stride_h, s.stride_w}, dilation{s.dilation_h - 1, s.dilation_w - 1};
  const memory::dims padding{s.pad_h, s.pad_w};
  const auto desc = onednn::describe<dnnl::convolution_forward>(engine(), {}, dnnl::prop_kind::forward_inference,
                                                                dnnl::algorithm::convolution_direct, x, w, y, stride,
                                                                dilation, padding, padding);
  return executing(
      dnnl::convolution_forward(desc),
      {{DNNL_ARG_SRC, filled(x)}, {DNNL_ARG_WEIGHTS, filled(desc.weights_desc())}, {DNNL_ARG_DST, filled(y)}});
}

}  // namespace luq::bench
