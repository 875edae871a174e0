/*
 * The MD5 message digest (RFC 1321).
 */
#include "base/md5.h"

#include <string.h>

#include "base/bits.h"

/* floor(2^32 * abs(sin(i + 1))), i in radians (RFC 1321, 3.4) */
static const uint32_t md5_sines[64] = {
	0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a,
	0xa8304613, 0xfd469501, 0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be,
	0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821, 0xf61e2562, 0xc040b340,
	0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
	0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8,
	0x676f02d9, 0x8d2a4c8a, 0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c,
	0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70, 0x289b7ec6, 0xeaa127fa,
	0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
	0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92,
	0xffeff47d, 0x85845dd1, 0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1,
	0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391,
};

/* How far each of the four rounds rotates, by step modulo 4 (3.4) */
static const uint8_t md5_shifts[4][4] = {
	{ 7, 12, 17, 22 },
	{ 5, 9, 14, 20 },
	{ 4, 11, 16, 23 },
	{ 6, 10, 15, 21 },
};

static void
md5_block(uint32_t state[4], const uint8_t block[64])
{
	uint32_t a = state[0], b = state[1], c = state[2], d = state[3], x[16];

	memcpy(x, block, sizeof(x)); /* both are little-endian */
	for (unsigned i = 0; i < 64; i++) {
		unsigned s = md5_shifts[i / 16][i % 4], k;
		uint32_t f, sum;

		switch (i / 16) {
		case 0:
			f = (b & c) | (~b & d);
			k = i;
			break;
		case 1:
			f = (b & d) | (c & ~d);
			k = (5 * i + 1) % 16;
			break;
		case 2:
			f = b ^ c ^ d;
			k = (3 * i + 5) % 16;
			break;
		default:
			f = c ^ (b | ~d);
			k = 7 * i % 16;
			break;
		}
		sum = a + f + x[k] + md5_sines[i];
		a = d;
		d = c;
		c = b;
		b += sum << s | sum >> (32 - s);
	}
	state[0] += a;
	state[1] += b;
	state[2] += c;
	state[3] += d;
}

void
md5(const void *data, size_t len, uint8_t digest[MD5_SIZE])
{
	uint32_t state[4] = { 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476 };
	size_t rest = len % 64, whole = len - rest, tail_len = rest < 56 ? 64 : 128;
	uint64_t bits = (uint64_t)len * 8;
	uint8_t tail[128] = { 0 };

	for (size_t off = 0; off < whole; off += 64)
		md5_block(state, (const uint8_t *)data + off);
	if (rest != 0)
		memcpy(tail, (const uint8_t *)data + whole, rest);
	tail[rest] = 0x80;
	memcpy(tail + tail_len - sizeof(bits), &bits, sizeof(bits));
	for (size_t off = 0; off < tail_len; off += 64)
		md5_block(state, tail + off);
	memcpy(digest, state, MD5_SIZE);
}
