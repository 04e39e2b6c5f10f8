#define TCE_SCALAR float
#include "kernels_avx2.inl"
