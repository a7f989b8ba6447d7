/* Batches, state and metrics without a host, for tests of plug-ins on the machine that they are written on. */
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

/* Empties the state of the processor that is tested: all tests of a program have one. */
void tw_test_empty_state(void);

/* What was added to a counter, what a gauge was set to last, or the sum of what a histogram observed. A series is asked for as
 * the plug-in asks for it, and is the same then: `tw_test_metric(tw_metric_counter("sent_total", "", NULL, 0))`. */
double tw_test_metric(tw_series series);

/* What a histogram observed, and how many values. */
const double *tw_test_observed(tw_series histogram, size_t *count);

/* Forgets what all metrics have recorded. */
void tw_test_empty_metrics(void);

#endif
