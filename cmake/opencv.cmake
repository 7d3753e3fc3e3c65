# luq_opencv, the module with OpenCV's readers of images (src/data/opencv/), and what src/data/opencv_library.cc knows of it.
# Not find_package(OpenCV): Debian's package file comes with libopencv-dev alone, which wants all of OpenCV, VTK and Qt.
find_path(OPENCV_INCLUDE_DIR opencv2/imgcodecs.hpp PATH_SUFFIXES opencv4 REQUIRED)
find_library(OPENCV_CORE_LIBRARY opencv_core REQUIRED)
find_library(OPENCV_IMGCODECS_LIBRARY opencv_imgcodecs REQUIRED)
set(LUQ_OPENCV_VERSION "")
foreach(part MAJOR MINOR REVISION)
  file(STRINGS ${OPENCV_INCLUDE_DIR}/opencv2/core/version.hpp line REGEX "define CV_VERSION_${part} ")
  string(REGEX MATCH "[0-9]+" number "${line}")
  list(APPEND LUQ_OPENCV_VERSION ${number})
endforeach()
list(JOIN LUQ_OPENCV_VERSION . LUQ_OPENCV_VERSION)

add_library(luq_opencv MODULE ${CMAKE_CURRENT_LIST_DIR}/../src/data/opencv/opencv_images.cc)
# Beside the programs, which look for it there.
set_target_properties(luq_opencv PROPERTIES PREFIX "" SUFFIX ".so" LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}
                                            CXX_VISIBILITY_PRESET default)
target_include_directories(luq_opencv PRIVATE ${CMAKE_CURRENT_LIST_DIR}/..)
target_include_directories(luq_opencv SYSTEM PRIVATE ${OPENCV_INCLUDE_DIR})
target_link_libraries(luq_opencv PRIVATE ${OPENCV_IMGCODECS_LIBRARY} ${OPENCV_CORE_LIBRARY}
                                         $<TARGET_NAME_IF_EXISTS:luq_options>)

set(LUQ_MODULE_SUBFOLDER ${CMAKE_INSTALL_LIBDIR}/luqtrain)
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/../src/data/opencv_library.cc PROPERTIES COMPILE_DEFINITIONS
  "LUQ_MODULE_SUBFOLDER=\"${LUQ_MODULE_SUBFOLDER}\";LUQ_MODULE_FOLDER=\"${CMAKE_INSTALL_PREFIX}/${LUQ_MODULE_SUBFOLDER}\";LUQ_OPENCV_VERSION=\"${LUQ_OPENCV_VERSION}\"")
