# The Debian packages of this project, sourced by quickstart.sh and test.sh: the one list there is.
luq_build_packages=(g++ cmake ninja-build libdnnl-dev libyaml-cpp-dev libfmt-dev libspdlog-dev libcli11-dev
  nlohmann-json3-dev zlib1g-dev libarchive-dev libjpeg-dev libpng-dev libgif-dev
  libopencv-imgcodecs-dev libexif-dev libprotobuf-dev protobuf-compiler libboost-dev dataset-fashion-mnist)
luq_test_packages=(catch2 python3 clang-format-14 clang-14 libclang-rt-14-dev libboost-context-dev)
