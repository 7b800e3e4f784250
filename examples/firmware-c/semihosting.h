/* Output on the machine that emulates or debugs the firmware. A product would have a serial port instead. */
#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

void print(const char *text);

/* Ends the emulation; 0 is success. */
void stop(int status);

#endif
