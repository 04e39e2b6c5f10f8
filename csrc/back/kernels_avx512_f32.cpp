#define TCE_SCALAR float
#include "kernels_avx512.inl"
