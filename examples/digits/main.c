/* Recognises three handwritten digits with the model that ptqc has compiled. */
#include <stdio.h>

#include "digits.h"
#include "pixels.h"

/* A pixel as the model's input wants it. The constants fold at compile time: on a chip this is a table of 17 bytes. */
static int8_t quantize(int pixel) {
  const float steps = (float)pixel / 16.0f / DIGITS_INPUT_0_SCALE;
  const int q = DIGITS_INPUT_0_ZERO_POINT + (int)(steps + 0.5f);
  return (int8_t)(q > 127 ? 127 : q);
}

int main(void) {
  for (int image = 0; image < 3; image++) {
    int8_t input[DIGITS_INPUT_0_LEN];
    int8_t output[DIGITS_OUTPUT_0_LEN];
    for (int i = 0; i < DIGITS_INPUT_0_LEN; i++) {
      input[i] = quantize(pixels[image][i]);
      printf("%s%s", pixels[image][i] > 10 ? "##" : pixels[image][i] > 3 ? "++" : "  ", i % 8 == 7 ? "\n" : "");
    }
    digits_run(input, output);
    int best = 0;
    for (int i = 1; i < DIGITS_OUTPUT_0_LEN; i++) {
      if (output[i] > output[best]) {
        best = i;
      }
    }
    printf("is a %d\n\n", best);
  }
  return 0;
}
