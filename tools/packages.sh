# What this project is built and tested with, by the names that Debian and Ubuntu share: the one list there is, sourced by
# quickstart.sh and test_system.sh.
#   luq_packages KIND...       the names of these kinds' packages
#   luq_print_packages KIND... name, oldest version that was tried (Debian 12's, but for GCC and CMake) and purpose
# Kinds: build; test; optional, which a few tests want and are skipped without, as not every system has such a package.
luq_package_table='
build    g++                      12      C++20 compiler (clang++ 14 and newer serve as well)
build    cmake                    3.25    build
build    ninja-build              1.11    build
build    libdnnl-dev              2.6     oneDNN: layers that are not quantised (2.6 to 3.x)
build    libyaml-cpp-dev          0.7     configurations
build    libfmt-dev               9.1     texts
build    libspdlog-dev            1.10    log
build    libcli11-dev             2.1     command line
build    nlohmann-json3-dev       3.11    JSON
build    zlib1g-dev               1.2.13  compressed data sets
build    libarchive-dev           3.6     tar shards
build    libjpeg-dev              2.1     JPEG images (libjpeg-turbo)
build    libpng-dev               1.6     PNG images
build    libgif-dev               5.2     GIF images (giflib)
build    libtiff-dev              4.5     TIFF images
build    libopencv-imgcodecs-dev  4.6     BMP, WebP and PNM images
build    libexif-dev              0.6.24  orientation of photos
build    libprotobuf-dev          3.21    ONNX and TensorBoard files
build    protobuf-compiler        3.21    the same
build    libboost-dev             1.74    checksums (headers)
build    dataset-fashion-mnist    2020    images to train on: four files in data/fashion_mnist do as well
test     catch2                   2.13    tests (2.13 to 3.x)
test     python3                  3.11    tests of the programs
test     libboost-context-dev     1.74    kernels for GPUs, emulated on the CPU
optional clang                    14      fuzzing
optional libclang-rt-dev          14      fuzzing
optional clang-format-14          14      the format test, which no other version can do
'

luq_packages() {
  local kind name rest
  while read -r kind name rest; do
    [[ " $* " != *" ${kind:-none} "* ]] || echo "$name"
  done <<<"$luq_package_table"
}

luq_print_packages() {
  local kind name version purpose
  while read -r kind name version purpose; do
    [[ " $* " != *" ${kind:-none} "* ]] || printf '  %-24s >= %-7s %s\n' "$name" "$version" "$purpose"
  done <<<"$luq_package_table"
}
