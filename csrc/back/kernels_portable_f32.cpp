#define TCE_SCALAR float
#include "kernels_portable.inl"
