#define TCE_SCALAR double
#include "kernels_avx2.inl"
