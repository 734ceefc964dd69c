// SPDX-License-Identifier: GPL-2.0
/*
 * libraries: what a database does through liblmdb, and a program for persistent
 * memory through libpmem, on a file that has its size.
 *
 *	libraries lmdb FILE SIZE FIRST LAST	put these keys, through a writable map of SIZE bytes
 *	libraries pmem FILE SIZE		"create" it with SIZE bytes, of stdin
 */
#include <err.h>
#include <libpmem.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(call) do {						\
	int error = (call);						\
	if (error)							\
		errx(1, "%s: %s", #call, mdb_strerror(error));		\
} while (0)

static void lmdb(const char *path, size_t size, long first, long last)
{
	char key[32], value[256];
	MDB_val k = { .mv_data = key }, v = { .mv_data = value };
	MDB_env *env;
	MDB_txn *txn;
	MDB_dbi dbi;

	CHECK(mdb_env_create(&env));
	CHECK(mdb_env_set_mapsize(env, size));
	CHECK(mdb_env_open(env, path, MDB_NOSUBDIR | MDB_WRITEMAP, 0644));
	CHECK(mdb_txn_begin(env, NULL, 0, &txn));
	CHECK(mdb_dbi_open(txn, NULL, 0, &dbi));
	for (; first <= last; first++) {
		k.mv_size = snprintf(key, sizeof(key), "key %ld", first);
		memset(value, 'a' + first % 26, sizeof(value));
		v.mv_size = sizeof(value) - first % 100;
		CHECK(mdb_put(txn, dbi, &k, &v, 0));
	}
	/* msync(2), too. */
	CHECK(mdb_txn_commit(txn));
	CHECK(mdb_env_sync(env, 1));
	mdb_env_close(env);
}

static void pmem(const char *path, size_t size)
{
	size_t mapped, at, n;
	static char bytes[8192];
	int is_pmem;
	char *p;

	p = pmem_map_file(path, size, PMEM_FILE_CREATE, 0644, &mapped, &is_pmem);
	if (!p)
		errx(1, "pmem_map_file: %s", pmem_errormsg());
	if (mapped != size)
		errx(1, "%zu bytes are mapped, not %zu", mapped, size);
	if (!is_pmem)
		errx(1, "this is no persistent memory, says libpmem");
	for (at = 0; at < size; at += n) {
		n = fread(bytes, 1, sizeof(bytes) < size - at ? sizeof(bytes) : size - at, stdin);
		if (!n)
			errx(1, "stdin is too short");
		pmem_memcpy_persist(p + at, bytes, n);
	}
	if (pmem_unmap(p, mapped))
		errx(1, "pmem_unmap: %s", pmem_errormsg());
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "lmdb"))
		lmdb(argv[2], strtoul(argv[3], NULL, 0), atol(argv[4]), atol(argv[5]));
	else if (argc == 4 && !strcmp(argv[1], "pmem"))
		pmem(argv[2], strtoul(argv[3], NULL, 0));
	else
		errx(2, "usage: libraries lmdb FILE SIZE FIRST LAST | pmem FILE SIZE");
	return 0;
}
