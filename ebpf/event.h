/* The layout of everything that the kernel programs hand to user space.
 *
 * Promises: fixed sizes, every byte of padding named, no bit fields, numbers in the byte order of the machine. The
 * same structures stand in src/dataplane/ebpf/layout.rs; sizes are asserted here and there, offsets are compared by a
 * test over the type information of the compiled object.
 * Must never: change without VERSION changing with it.
 */
#pragma once

#define EVENT_VERSION 1

#define COMM_BYTES 16
#define PATH_BYTES 128
#define ARGS_BYTES 256
#define CGROUP_PATH_BYTES 256
#define ADDRESS_BYTES 16

enum event_kind {
	KIND_EXEC = 1,
	KIND_EXIT = 2,
	KIND_CONNECT = 3,
	KIND_CONNECT_FAILED = 4,
	KIND_ACCEPT = 5,
	KIND_CLOSE = 6,
	KIND_OOM_KILL = 7,
	/* Tells where the directory of a new control group is. Never leaves the data plane. */
	KIND_CGROUP = 8,
};

/* The table of counters: a row per processor, in it two columns per kind and one for connections without a place. */
#define COUNT_ROWS 256
#define COUNT_COLUMNS 32
#define COLUMN_UNTRACKED 0
#define COLUMN_LOST 16

struct event_head {
	__u8 version;
	__u8 kind;
	__u16 bytes;
	/* The process as the initial namespace numbers it; 0 where nobody is to blame for sure. */
	__u32 pid;
	/* CLOCK_BOOTTIME. */
	__u64 time_ns;
	/* Inode of the directory in the unified hierarchy; 0 when unknown. */
	__u64 cgroup_id;
	__u32 parent_pid;
	__u32 uid;
	char comm[COMM_BYTES];
};

struct exec_event {
	struct event_head head;
	/* What there was, and what of it fitted into args. */
	__u32 args_total;
	__u32 args_bytes;
	char path[PATH_BYTES];
	char args[ARGS_BYTES];
};

struct exit_event {
	struct event_head head;
	__u64 lifetime_ns;
	/* As wait(2) would tell. */
	__u32 status;
	__u32 padding;
};

struct tcp_event {
	struct event_head head;
	__u16 family;
	/* Host byte order; 0 when not chosen yet. */
	__u16 local_port;
	__u16 peer_port;
	/* 1: we accepted; 0: we connected. */
	__u8 accepted;
	__u8 padding;
	__u32 netns;
	/* An errno; 0 when nothing went wrong. */
	__u32 error;
	__u8 local[ADDRESS_BYTES];
	__u8 peer[ADDRESS_BYTES];
	/* Of the handshake, or of the connection. */
	__u64 duration_ns;
	__u64 sent_bytes;
	__u64 received_bytes;
};

struct oom_event {
	struct event_head head;
	__s32 score_adj;
	__u32 padding;
};

struct cgroup_event {
	struct event_head head;
	char path[CGROUP_PATH_BYTES];
};

_Static_assert(sizeof(struct event_head) == 48, "event_head");
_Static_assert(sizeof(struct exec_event) == 440, "exec_event");
_Static_assert(sizeof(struct exit_event) == 64, "exit_event");
_Static_assert(sizeof(struct tcp_event) == 120, "tcp_event");
_Static_assert(sizeof(struct oom_event) == 56, "oom_event");
_Static_assert(sizeof(struct cgroup_event) == 304, "cgroup_event");
