// A vector of kVectorBytes bytes, and the few operations that the kernels need.
//
// Arithmetic is written with the compiler's vector types (GCC and Clang), so one source serves every ISA;
// only the partial loads and stores have an intrinsic form, because masks are where the ISAs differ.
//
// Included once by each kernels_<isa>.inl, which defines TCE_VECTOR_BYTES. Everything is in an anonymous
// namespace: a weak copy compiled for AVX-512 must never be the one that the linker keeps for all.

#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// Loops over registers must vanish: an accumulator array indexed at run time would live in memory.
#if defined(__clang__)
#define TCE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define TCE_UNROLL _Pragma("GCC unroll 32")
#endif
#define TCE_INLINE inline __attribute__((always_inline))

namespace tce {
namespace {

constexpr int kVectorBytes = TCE_VECTOR_BYTES;

template <class scalar_t, int Bytes>
struct VectorOf {
  typedef scalar_t type __attribute__((vector_size(Bytes)));
};
template <class scalar_t, int Bytes = kVectorBytes>
using Vec = typename VectorOf<scalar_t, Bytes>::type;

template <class scalar_t, int Bytes = kVectorBytes>
constexpr int kLanes = Bytes / static_cast<int>(sizeof(scalar_t));

template <class scalar_t>
TCE_INLINE Vec<scalar_t> load(const scalar_t* p) {
  Vec<scalar_t> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <class scalar_t>
TCE_INLINE void store(scalar_t* p, Vec<scalar_t> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

// Keeps a loaded vector in its register: GCC may rather load it again for each of its uses.
template <class V>
TCE_INLINE void keep(V& v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#endif
}

// Hides from the compiler what it knows of a pointer or number: it may otherwise compute all that depends on it
// ahead, and spill that.
template <class T>
TCE_INLINE void opaque(T& v) {
#if defined(__GNUC__)
  asm volatile("" : "+r"(v));
#endif
}

// Past the caches, to an aligned address; to be followed by finish_streams before others read it.
template <class scalar_t>
TCE_INLINE void stream(scalar_t* p, Vec<scalar_t> v) {
#if defined(__clang__)
  __builtin_nontemporal_store(v, reinterpret_cast<Vec<scalar_t>*>(p));
#elif defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), reinterpret_cast<__m512i>(v));
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(v));
#else
  store(p, v);
#endif
}
inline void finish_streams() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// The first n lanes from p, the others zero; 0 <= n <= lanes. Touches nothing beyond p[n - 1].
// store_partial writes the first n lanes and nothing else. load_lanes reads the lanes whose bits are set, of
// vectors of kVectorBytes or, with AVX-512, of half as many.
#if defined(__AVX512F__)
TCE_INLINE Vec<float> load_partial(const float* p, int n) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
}
TCE_INLINE Vec<double> load_partial(const double* p, int n) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
}
template <int Bytes>
TCE_INLINE Vec<float, Bytes> load_lanes(const float* p, uint32_t lanes) {
  if constexpr (Bytes == 64) return _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), p);
  if constexpr (Bytes == 32) return _mm256_maskz_loadu_ps(static_cast<__mmask8>(lanes), p);
}
template <int Bytes>
TCE_INLINE Vec<double, Bytes> load_lanes(const double* p, uint32_t lanes) {
  if constexpr (Bytes == 64) return _mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), p);
  if constexpr (Bytes == 32) return _mm256_maskz_loadu_pd(static_cast<__mmask8>(lanes), p);
}
TCE_INLINE void store_partial(float* p, Vec<float, 32> v, int n) {
  _mm256_mask_storeu_ps(p, static_cast<__mmask8>((1u << n) - 1), v);
}
TCE_INLINE void store_partial(double* p, Vec<double, 32> v, int n) {
  _mm256_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), v);
}
TCE_INLINE void store_partial(float* p, Vec<float> v, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), v);
}
TCE_INLINE void store_partial(double* p, Vec<double> v, int n) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), v);
}
#elif defined(__AVX2__)
// A window of this table, starting 8 - n (or 4 - n) entries in, is the mask of the first n lanes.
alignas(64) constexpr int32_t kMask32[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
alignas(64) constexpr int64_t kMask64[8] = {-1, -1, -1, -1, 0, 0, 0, 0};

TCE_INLINE __m256i mask32(int n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask32 + 8 - n));
}
TCE_INLINE __m256i mask64(int n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask64 + 4 - n));
}

TCE_INLINE Vec<float> load_partial(const float* p, int n) {
  return _mm256_maskload_ps(p, mask32(n));
}
TCE_INLINE Vec<double> load_partial(const double* p, int n) {
  return _mm256_maskload_pd(p, mask64(n));
}
template <int>
TCE_INLINE Vec<float> load_lanes(const float* p, uint32_t lanes) {
  if (lanes == 0xff) return load(p);
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i wanted = _mm256_and_si256(_mm256_set1_epi32(static_cast<int32_t>(lanes)), bit);
  return _mm256_maskload_ps(p, _mm256_cmpeq_epi32(wanted, bit));
}
template <int>
TCE_INLINE Vec<double> load_lanes(const double* p, uint32_t lanes) {
  if (lanes == 0xf) return load(p);
  const __m256i bit = _mm256_setr_epi64x(1, 2, 4, 8);
  const __m256i wanted = _mm256_and_si256(_mm256_set1_epi64x(lanes), bit);
  return _mm256_maskload_pd(p, _mm256_cmpeq_epi64(wanted, bit));
}
TCE_INLINE void store_partial(float* p, Vec<float> v, int n) {
  if (n == 8) return store(p, v);
  _mm256_maskstore_ps(p, mask32(n), v);
}
TCE_INLINE void store_partial(double* p, Vec<double> v, int n) {
  if (n == 4) return store(p, v);
  _mm256_maskstore_pd(p, mask64(n), v);
}
#else
template <class scalar_t>
TCE_INLINE Vec<scalar_t> load_partial(const scalar_t* p, int n) {
  Vec<scalar_t> v = {};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
template <int, class scalar_t>
TCE_INLINE Vec<scalar_t> load_lanes(const scalar_t* p, uint32_t lanes) {
  if (lanes == (1u << kLanes<scalar_t>)-1) return load(p);
  Vec<scalar_t> v = {};
  for (int i = 0; i < kLanes<scalar_t>; ++i)
    if (lanes >> i & 1) v[i] = p[i];
  return v;
}
template <class scalar_t>
TCE_INLINE void store_partial(scalar_t* p, Vec<scalar_t> v, int n) {
  if (n == kLanes<scalar_t>) return store(p, v);
  for (int i = 0; i < n; ++i) p[i] = v[i];
}
#endif

// Lane j of the result: bit S of j clear: a[j], else b[j - S].
template <int S, class V, int... J>
TCE_INLINE V merge_low(V a, V b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, b, ((J & S) ? J - S + static_cast<int>(sizeof...(J)) : J)...);
}
// Lane j of the result: bit S of j clear: a[j + S], else b[j].
template <int S, class V, int... J>
TCE_INLINE V merge_high(V a, V b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, b, ((J & S) ? J + static_cast<int>(sizeof...(J)) : J + S)...);
}
// Lane j of the result: element 2 j (2 j + 1) of the 2 * lanes elements of a followed by b.
template <class V, int... J>
TCE_INLINE V even_lanes(V a, V b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, b, (2 * J)...);
}
template <class V, int... J>
TCE_INLINE V odd_lanes(V a, V b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, b, (2 * J + 1)...);
}

// The lanes of a and b in turn: a[0] b[0] a[1] b[1] ...; of the first halves, and of the second.
template <class V, int... J>
TCE_INLINE V zip_low(V a, V b, std::integer_sequence<int, J...>) {
  return __builtin_shufflevector(a, b, (J / 2 + (J % 2) * static_cast<int>(sizeof...(J)))...);
}
template <class V, int... J>
TCE_INLINE V zip_high(V a, V b, std::integer_sequence<int, J...>) {
  constexpr int L = static_cast<int>(sizeof...(J));
  return __builtin_shufflevector(a, b, (L / 2 + J / 2 + (J % 2) * L)...);
}

// Lane j of the result: a[index[j]].
template <class scalar_t>
using Index = Vec<std::conditional_t<sizeof(scalar_t) == 4, int32_t, int64_t>>;

template <class scalar_t>
TCE_INLINE Index<scalar_t> lane_index(const int32_t* index) {
  Index<scalar_t> v = {};
  for (int j = 0; j < kLanes<scalar_t>; ++j) v[j] = index[j];
  return v;
}
template <class V, class I>
TCE_INLINE V pick_lanes(V a, I index) {
#if defined(__clang__)
  constexpr int L = static_cast<int>(sizeof(V) / sizeof(a[0]));
  V v = {};
  for (int j = 0; j < L; ++j) v[j] = a[index[j]];
  return v;
#else
  return __builtin_shuffle(a, index);
#endif
}

// Transposes a lanes x lanes block in registers: swaps the off-diagonal S x S sub-blocks of each 2S x 2S
// block, for S = lanes / 2, ..., 2, 1.
template <class scalar_t, int S = kLanes<scalar_t> / 2>
TCE_INLINE void transpose(Vec<scalar_t>* row) {
  constexpr int L = kLanes<scalar_t>;
  constexpr auto lanes = std::make_integer_sequence<int, L>();
  TCE_UNROLL
  for (int i = 0; i < L; ++i) {
    if (i & S) continue;
    const Vec<scalar_t> low = row[i], high = row[i + S];
    row[i] = merge_low<S>(low, high, lanes);
    row[i + S] = merge_high<S>(low, high, lanes);
  }
  if constexpr (S > 1) transpose<scalar_t, S / 2>(row);
}

}  // namespace
}  // namespace tce
