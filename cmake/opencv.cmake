# Not find_package(OpenCV): Debian's package file comes with libopencv-dev alone, which wants all of OpenCV, VTK and Qt.
find_path(OPENCV_INCLUDE_DIR opencv2/imgcodecs.hpp PATH_SUFFIXES opencv4 REQUIRED)
find_library(OPENCV_CORE_LIBRARY opencv_core REQUIRED)
find_library(OPENCV_IMGCODECS_LIBRARY opencv_imgcodecs REQUIRED)
add_library(OpenCV::core UNKNOWN IMPORTED)
set_target_properties(OpenCV::core PROPERTIES IMPORTED_LOCATION ${OPENCV_CORE_LIBRARY}
                                              INTERFACE_INCLUDE_DIRECTORIES ${OPENCV_INCLUDE_DIR})
add_library(OpenCV::imgcodecs UNKNOWN IMPORTED)
set_target_properties(OpenCV::imgcodecs PROPERTIES IMPORTED_LOCATION ${OPENCV_IMGCODECS_LIBRARY}
                                                   INTERFACE_LINK_LIBRARIES OpenCV::core)
