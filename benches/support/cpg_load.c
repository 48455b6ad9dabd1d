/*
 * Load for corosync's closed process groups, for comparison.
 *
 *   cpg_load rate GROUP MEMBERS SIZE SENDS SECONDS    prints messages delivered per second
 *   cpg_load gap GROUP MEMBERS SIZE SENDS SECONDS     prints the longest time without a delivery in microseconds
 *   cpg_load latency GROUP MEMBERS SIZE SENDS COUNT   prints the median time to the sender's own delivery in microseconds
 *
 * Starts when MEMBERS processes are in the group. SENDS is 1 for a sender, 0 for a listener. Each run takes a GROUP of
 * its own: processes of the run before may still be leaving theirs.
 */
#include <corosync/corotypes.h>
#include <corosync/cpg.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>

static cpg_handle_t handle;
static uint32_t self;
static char *contents;
static size_t size;
static int wanted;
/* Shared by the sending and the delivering thread. */
static int present, started, finished;
static uint64_t delivered, own_delivered;
/* Of the delivering thread alone: when the last message came, and the longest time between two. */
static uint64_t last_at, longest;
static double result;

static uint64_t nanoseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void rest(long microseconds)
{
	struct timespec t = { microseconds / 1000000, microseconds % 1000000 * 1000 };

	nanosleep(&t, NULL);
}

static void check(const char *what, cs_error_t error)
{
	if (error != CS_OK) {
		fprintf(stderr, "%s: error %d\n", what, (int)error);
		exit(1);
	}
}

static void deliver(cpg_handle_t h, const struct cpg_name *name, uint32_t node, uint32_t process, void *message,
		    size_t length)
{
	const uint64_t now = nanoseconds();

	(void)h, (void)name, (void)process, (void)message, (void)length;
	if (last_at != 0 && now - last_at > longest)
		longest = now - last_at;
	last_at = now;
	__atomic_fetch_add(&delivered, 1, __ATOMIC_RELAXED);
	if (node == self)
		__atomic_fetch_add(&own_delivered, 1, __ATOMIC_RELAXED);
}

static void members(cpg_handle_t h, const struct cpg_name *name, const struct cpg_address *list, size_t count,
		    const struct cpg_address *left, size_t left_count, const struct cpg_address *joined,
		    size_t joined_count)
{
	(void)h, (void)name, (void)list, (void)left, (void)joined, (void)joined_count;
	__atomic_store_n(&present, (int)count, __ATOMIC_RELAXED);
	if ((int)count >= wanted)
		__atomic_store_n(&started, 1, __ATOMIC_RELAXED);
	/* The first that leaves has finished, and so has everyone. */
	if (left_count > 0 && started)
		__atomic_store_n(&finished, 1, __ATOMIC_RELAXED);
}

/* Delivers what there is; waits for it at most so many milliseconds. */
static void dispatch(int descriptor, int wait)
{
	struct pollfd ready = { .fd = descriptor, .events = POLLIN };

	if (poll(&ready, 1, wait) > 0)
		cpg_dispatch(handle, CS_DISPATCH_ALL);
}

static int send_once(void)
{
	struct iovec part = { contents, size };
	cs_error_t error = cpg_mcast_joined(handle, CPG_TYPE_AGREED, &part, 1);

	if (error == CS_ERR_TRY_AGAIN)
		return 0;
	check("cpg_mcast_joined", error);
	return 1;
}

static void *sender(void *unused)
{
	while (!__atomic_load_n(&finished, __ATOMIC_RELAXED))
		if (!send_once())
			rest(20);
	return unused;
}

static void rate(int descriptor, int sends, double seconds)
{
	const uint64_t warm = nanoseconds() + 200000000u;
	uint64_t begin, end, before, counted;
	pthread_t thread;

	if (sends)
		pthread_create(&thread, NULL, sender, NULL);
	while (nanoseconds() < warm)
		dispatch(descriptor, 10);
	begin = nanoseconds();
	before = delivered;
	while (nanoseconds() < begin + (uint64_t)(seconds * 1e9))
		dispatch(descriptor, 10);
	end = nanoseconds();
	counted = delivered - before;
	/* The others may still be counting. */
	while (nanoseconds() < end + 100000000u)
		dispatch(descriptor, 10);
	__atomic_store_n(&finished, 1, __ATOMIC_RELAXED);
	if (sends)
		pthread_join(thread, NULL);
	/* What is on its way, so that the daemon is not left with it. */
	do {
		before = delivered;
		dispatch(descriptor, 100);
	} while (delivered != before);
	result = (double)counted / ((double)(end - begin) / 1e9);
}

static void *steady_sender(void *unused)
{
	while (!__atomic_load_n(&finished, __ATOMIC_RELAXED)) {
		send_once();
		rest(1000);
	}
	return unused;
}

/* A message each millisecond. The first half second does not count. */
static void gap(int descriptor, int sends, double seconds)
{
	const uint64_t warm = nanoseconds() + 500000000u;
	pthread_t thread;
	uint64_t end;

	if (sends)
		pthread_create(&thread, NULL, steady_sender, NULL);
	while (nanoseconds() < warm)
		dispatch(descriptor, 10);
	longest = 0;
	end = nanoseconds() + (uint64_t)(seconds * 1e9);
	while (nanoseconds() < end)
		dispatch(descriptor, 10);
	if (nanoseconds() - last_at > longest)
		longest = nanoseconds() - last_at;
	result = (double)longest / 1000;
	/* The others may still be counting. */
	while (nanoseconds() < end + 300000000u)
		dispatch(descriptor, 10);
	__atomic_store_n(&finished, 1, __ATOMIC_RELAXED);
	if (sends)
		pthread_join(thread, NULL);
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void latency(int descriptor, int sends, size_t count)
{
	double *taken = calloc(count, sizeof *taken);

	if (!sends) {
		while (!finished)
			dispatch(descriptor, 100);
		return;
	}
	for (size_t i = 0; i < count; i++) {
		const uint64_t sent = nanoseconds();
		const uint64_t before = own_delivered;

		while (!send_once())
			dispatch(descriptor, 0);
		while (own_delivered == before)
			dispatch(descriptor, 100);
		taken[i] = (double)(nanoseconds() - sent) / 1000;
		/* An irregular pause, so that sends do not fall in step with the token. */
		rest(100 + (long)(i * 7919 % 400));
	}
	qsort(taken, count, sizeof *taken, by_value);
	result = taken[count / 2];
}

int main(int count, char **words)
{
	cpg_callbacks_t callbacks = { .cpg_deliver_fn = deliver, .cpg_confchg_fn = members };
	struct cpg_name group = { 0 };
	const uint64_t patience = nanoseconds() + 20000000000u;
	int descriptor;
	cs_error_t error;

	if (count != 7 || strlen(words[2]) >= sizeof group.value)
		return 2;
	strcpy(group.value, words[2]);
	group.length = strlen(words[2]);
	wanted = atoi(words[3]);
	size = strtoul(words[4], NULL, 10);
	contents = calloc(1, size);
	while ((error = cpg_initialize(&handle, &callbacks)) != CS_OK && nanoseconds() < patience)
		rest(20000);
	check("cpg_initialize", error);
	check("cpg_local_get", cpg_local_get(handle, &self));
	while ((error = cpg_join(handle, &group)) == CS_ERR_TRY_AGAIN)
		rest(1000);
	check("cpg_join", error);
	check("cpg_fd_get", cpg_fd_get(handle, &descriptor));
	while (!started) {
		if (nanoseconds() > patience) {
			fprintf(stderr, "%d of %d members\n", present, wanted);
			return 1;
		}
		dispatch(descriptor, 20);
	}
	if (strcmp(words[1], "latency") == 0)
		latency(descriptor, atoi(words[5]), strtoul(words[6], NULL, 10));
	else if (strcmp(words[1], "gap") == 0)
		gap(descriptor, atoi(words[5]), atof(words[6]));
	else
		rate(descriptor, atoi(words[5]), atof(words[6]));
	cpg_leave(handle, &group);
	cpg_finalize(handle);
	printf("%.1f\n", result);
	return 0;
}
