#define TCE_SCALAR double
#include "kernels_avx512.inl"
