# Toolchain file: gcc for bare-metal Arm. BOARD is one of QEMU's boards and decides the processor.
set(CMAKE_SYSTEM_NAME Generic)
set(CMAKE_SYSTEM_PROCESSOR arm)
set(CMAKE_C_COMPILER arm-none-eabi-gcc)

# Trial compilations have no start-up code to link with, and have to know the board too.
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES BOARD)

set(BOARD "mps2-an386" CACHE STRING "mps2-an386 (Cortex-M4) or mps3-an547 (Cortex-M55)")
if(BOARD STREQUAL "mps2-an386")
  set(cpu "-mcpu=cortex-m4 -mfpu=fpv4-sp-d16")
elseif(BOARD STREQUAL "mps3-an547")
  set(cpu "-mcpu=cortex-m55")
else()
  message(FATAL_ERROR "BOARD is `${BOARD}`; there are mps2-an386 and mps3-an547")
endif()
set(CMAKE_C_FLAGS_INIT "${cpu} -mthumb -mfloat-abi=hard -ffunction-sections -fdata-sections")
