#include "luq/quant/qtensor.h"

namespace luq {

bool QTensor::is_one_encoding() const {
  if (!format.quantized() || static_cast<int>(planes.size()) != format.row().planes) return false;
  for (size_t i = 0; i < planes.size(); ++i) {
    const FormatPlane& expected = format.row().plane[i];
    if (planes[i].table != expected.table || planes[i].scale != scale * expected.factor || planes[i].scales.defined() ||
        !planes[i].codes.shares_buffer_with(planes[0].codes)) {
      return false;
    }
  }
  return true;
}

}  // namespace luq
