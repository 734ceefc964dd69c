/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's own harness, which is behind this file in the search path, except
 * that a slow kernel has more time for each test: see fs_slowness().
 */
#ifndef FMAP_KSELFTEST_HARNESS_H
#define FMAP_KSELFTEST_HARNESS_H

#include_next <kselftest_harness.h>

int fs_slowness(void);

static inline int patient_harness_run(int argc, char **argv)
{
	for (struct __fixture_metadata *f = __fixture_list; f; f = f->next)
		for (struct __test_metadata *t = f->tests; t; t = t->next)
			t->timeout *= fs_slowness();
	return test_harness_run(argc, argv);
}

#define test_harness_run patient_harness_run

#endif
