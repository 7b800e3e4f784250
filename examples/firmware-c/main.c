/* Recognises three handwritten digits. */
#include "digits.h"
#include "pixels.h"
#include "semihosting.h"

/* A pixel of 0 to 16 as the model's input wants it. The model was trained on pixel / 16; all of this is constant, so the
 * compiler computes it and the firmware holds a table of 17 bytes and no floating point. */
#define STEPS(pixel) ((pixel) / 16.0f / DIGITS_INPUT_0_SCALE)
#define Q(pixel) (DIGITS_INPUT_0_ZERO_POINT + (int)(STEPS(pixel) + 0.5f))
#define QUANTIZED(pixel) ((int8_t)(Q(pixel) > 127 ? 127 : Q(pixel)))
static const int8_t quantized[17] = {
    QUANTIZED(0),  QUANTIZED(1),  QUANTIZED(2),  QUANTIZED(3),  QUANTIZED(4),  QUANTIZED(5),
    QUANTIZED(6),  QUANTIZED(7),  QUANTIZED(8),  QUANTIZED(9),  QUANTIZED(10), QUANTIZED(11),
    QUANTIZED(12), QUANTIZED(13), QUANTIZED(14), QUANTIZED(15), QUANTIZED(16),
};

int main(void) {
  static int8_t input[DIGITS_INPUT_0_LEN];
  static int8_t output[DIGITS_OUTPUT_0_LEN];
  for (int image = 0; image < 3; image++) {
    for (int i = 0; i < DIGITS_INPUT_0_LEN; i++) {
      input[i] = quantized[pixels[image][i]];
    }
    digits_run(input, output);
    int best = 0;
    for (int i = 1; i < DIGITS_OUTPUT_0_LEN; i++) {
      if (output[i] > output[best]) {
        best = i;
      }
    }
    const char text[] = {'i', 's', ' ', 'a', ' ', (char)('0' + best), '\n', '\0'};
    print(text);
  }
  return 0;
}
