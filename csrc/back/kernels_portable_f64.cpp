#define TCE_SCALAR double
#include "kernels_portable.inl"
