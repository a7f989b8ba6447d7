/* Batches without a host, for tests of plug-ins on the machine that they are written on. */
#ifndef TAILWEIR_TESTING_H
#define TAILWEIR_TESTING_H

#include "tailweir.h"

/* A batch of these records, each valid JSON. It stays valid until the next one is made. */
const tw_batch *tw_test_batch(size_t count, const char *const *records);

/* Ends the test with what failed and where, if something is not so. */
#define tw_test(condition) tw_test_that((condition), #condition, __FILE__, __LINE__)
void tw_test_that(bool is_so, const char *what, const char *file, int line);

/* Whether a text is this string. */
bool tw_test_is(tw_text text, const char *expected);

#endif
