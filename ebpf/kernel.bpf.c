/* Processes, TCP connections and OOM kills, seen from tracepoints of the running kernel.
 *
 * Promises: a socket's event names the control group that owns the socket, never the task that happens to run; every
 * event that finds no room is counted by kind; what our own processes do is not reported; nothing is slowed down but
 * the hooked moment itself, and a reader that sleeps is woken once per burst.
 * Must never: hook a system call, a kprobe or a security hook, loop, or read a command line unless told to.
 */
#include "co_re.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "event.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";

/* Set by the loader; the kernel treats them as constants. */
const volatile __u32 ring_bytes = 4 << 20;
const volatile __u32 want_args = 0;
/* Our processes as our own namespace numbers them, and that namespace; 0 when it is the initial one. */
const volatile __u32 own_tgids[2] = {};
const volatile __u32 own_pidns = 0;

/* Keeps the layout of the events in the type information of the object, where a test reads it. */
const union {
	struct exec_event exec;
	struct exit_event exit;
	struct tcp_event tcp;
	struct oom_event oom;
	struct cgroup_event cgroup;
} *const volatile layout = NULL;

struct port_key {
	/* 0: in every namespace. */
	__u32 netns;
	__u16 port;
	__u16 padding;
};

struct connection {
	__u64 since_ns;
	__u64 cgroup_id;
	__u32 pid;
	__u32 uid;
	__u16 family;
	__u16 local_port;
	__u16 peer_port;
	__u8 accepted;
	__u8 established;
	__u32 netns;
	__u32 padding;
	__u8 local[ADDRESS_BYTES];
	__u8 peer[ADDRESS_BYTES];
	char comm[COMM_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, COUNT_ROWS * COUNT_COLUMNS);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

/* Connections by the address of their socket. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct connection);
} connections SEC(".maps");

/* Ports whose connections are not reported: those we listen on, where they are accepted, and those the config names. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct port_key);
	__type(value, __u32);
} excluded_ports SEC(".maps");

/* Our listeners by the address of their socket, because a closed socket has forgotten its port. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, struct port_key);
} own_listeners SEC(".maps");

static __always_inline void count(__u32 column)
{
	__u32 row = bpf_get_smp_processor_id() & (COUNT_ROWS - 1);
	__u32 index = row * COUNT_COLUMNS + column;
	__u64 *slot = bpf_map_lookup_elem(&counts, &index);

	/* An interrupt may count in the middle of our counting. */
	if (slot)
		__sync_fetch_and_add(slot, 1);
}

/* Room for an event. The last eighth is kept for what a flood of connections must not push out. */
static __always_inline void *reserve(__u32 kind, __u32 bytes, bool urgent)
{
	struct event_head *head = NULL;
	__u64 used = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);

	count(kind);
	if (urgent || used < ring_bytes / 8 * 7)
		head = bpf_ringbuf_reserve(&events, bytes, 0);
	if (!head)
		count(COLUMN_LOST + kind);
	return head;
}

static __always_inline void fill(struct event_head *head, __u32 kind, __u32 bytes)
{
	head->version = EVENT_VERSION;
	head->kind = kind;
	head->bytes = bytes;
	head->time_ns = bpf_ktime_get_boot_ns();
}

/* The kernel itself wakes a reader that had caught up, so a burst costs one wake-up; one more follows when the ring
 * passes a quarter, for a reader that is gathering. The width of the band covers several processors passing at once.
 */
static __always_inline void submit(void *event)
{
	__u64 used = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
	__u64 beyond = used - ring_bytes / 4;

	bpf_ringbuf_submit(event, beyond < ring_bytes / 64 ? BPF_RB_FORCE_WAKEUP : 0);
}

static __always_inline bool is_own_number(__u32 tgid)
{
	return tgid && (tgid == own_tgids[0] || tgid == own_tgids[1]);
}

/* Whether a task belongs to one of our processes. In a container the numbers we know are not the kernel's. */
static __always_inline bool is_own(struct task_struct *task)
{
	struct pid *pid;
	struct upid *upid;
	struct pid_namespace *ns;
	__u32 level;

	if (!own_pidns)
		return is_own_number(BPF_CORE_READ(task, tgid));
	pid = BPF_CORE_READ(task, group_leader, thread_pid);
	if (!pid)
		return false;
	level = BPF_CORE_READ(pid, level) & 31;
	upid = (void *)__builtin_preserve_access_index(&pid->numbers) + level * 16;
	ns = BPF_CORE_READ(upid, ns);
	return is_own_number(BPF_CORE_READ(upid, nr)) && BPF_CORE_READ(ns, ns.inum) == own_pidns;
}

static __always_inline __u64 cgroup_of(struct task_struct *task)
{
	return BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
}

/* ---- processes */

SEC("tp_btf/sched_process_exec")
int BPF_PROG(on_exec, struct task_struct *task, pid_t old_pid, struct linux_binprm *program)
{
	struct task_struct *parent = BPF_CORE_READ(task, real_parent);
	struct exec_event *event;

	if (is_own(task) || is_own(parent))
		return 0;
	event = reserve(KIND_EXEC, sizeof(*event), false);
	if (!event)
		return 0;
	fill(&event->head, KIND_EXEC, sizeof(*event));
	event->head.pid = BPF_CORE_READ(task, tgid);
	event->head.parent_pid = BPF_CORE_READ(parent, tgid);
	event->head.uid = bpf_get_current_uid_gid();
	event->head.cgroup_id = cgroup_of(task);
	bpf_get_current_comm(event->head.comm, COMM_BYTES);
	event->path[0] = 0;
	bpf_probe_read_kernel_str(event->path, PATH_BYTES, BPF_CORE_READ(program, filename));
	event->args_total = 0;
	event->args_bytes = 0;
	if (want_args) {
		unsigned long start = BPF_CORE_READ(task, mm, arg_start);
		__u64 bytes = BPF_CORE_READ(task, mm, arg_end) - start;

		event->args_total = bytes;
		if (bytes > ARGS_BYTES)
			bytes = ARGS_BYTES;
		if (!bpf_probe_read_user(event->args, bytes, (void *)start))
			event->args_bytes = bytes;
	}
	submit(event);
	return 0;
}

#define PF_KTHREAD 0x00200000
#define SIGNAL_GROUP_EXIT 0x00000004

static __always_inline int process_exit(struct task_struct *task)
{
	struct task_struct *leader = BPF_CORE_READ(task, group_leader);
	struct task_struct *parent = BPF_CORE_READ(leader, real_parent);
	struct signal_struct *signal = BPF_CORE_READ(task, signal);
	struct exit_event *event;
	__u32 status;

	if (BPF_CORE_READ(task, flags) & PF_KTHREAD)
		return 0;
	if (is_own(task) || is_own(parent))
		return 0;
	if (BPF_CORE_READ(signal, flags) & SIGNAL_GROUP_EXIT)
		status = BPF_CORE_READ(signal, group_exit_code);
	else
		status = BPF_CORE_READ(leader, exit_code);
	event = reserve(KIND_EXIT, sizeof(*event), false);
	if (!event)
		return 0;
	fill(&event->head, KIND_EXIT, sizeof(*event));
	event->head.pid = BPF_CORE_READ(task, tgid);
	event->head.parent_pid = BPF_CORE_READ(parent, tgid);
	event->head.uid = bpf_get_current_uid_gid();
	event->head.cgroup_id = cgroup_of(task);
	bpf_probe_read_kernel_str(event->head.comm, COMM_BYTES, &leader->comm);
	event->lifetime_ns = event->head.time_ns - BPF_CORE_READ(leader, start_boottime);
	event->status = status;
	event->padding = 0;
	submit(event);
	return 0;
}

/* Kernels that say which thread is the last of its process. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit_last, struct task_struct *task, bool last)
{
	return last ? process_exit(task) : 0;
}

/* Kernels that do not: the first thread stands for the process, even if others outlive it. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit_first, struct task_struct *task)
{
	return task->pid == task->tgid ? process_exit(task) : 0;
}

/* The victim is not the task that runs. Members are read directly and not by a helper, so that a kernel whose
 * tracepoint passes a number here refuses the program instead of following the number as an address.
 */
SEC("tp_btf/mark_victim")
int BPF_PROG(on_oom_task, struct task_struct *task, uid_t uid)
{
	struct oom_event *event = reserve(KIND_OOM_KILL, sizeof(*event), true);

	if (!event)
		return 0;
	fill(&event->head, KIND_OOM_KILL, sizeof(*event));
	event->head.pid = task->tgid;
	event->head.parent_pid = BPF_CORE_READ(task, real_parent, tgid);
	event->head.uid = uid;
	event->head.cgroup_id = cgroup_of(task);
	bpf_probe_read_kernel_str(event->head.comm, COMM_BYTES, &task->group_leader->comm);
	event->score_adj = BPF_CORE_READ(task, signal, oom_score_adj);
	event->padding = 0;
	submit(event);
	return 0;
}

SEC("tp_btf/mark_victim")
int BPF_PROG(on_oom_pid, int pid)
{
	struct oom_event *event = reserve(KIND_OOM_KILL, sizeof(*event), true);

	if (!event)
		return 0;
	__builtin_memset(event, 0, sizeof(*event));
	fill(&event->head, KIND_OOM_KILL, sizeof(*event));
	event->head.pid = pid;
	submit(event);
	return 0;
}

/* ---- where control groups are */

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(on_cgroup, struct cgroup *cgroup, const char *path)
{
	struct cgroup_event *event;

	/* Only the unified hierarchy, whose number is 0. */
	if (BPF_CORE_READ(cgroup, root, hierarchy_id))
		return 0;
	event = reserve(KIND_CGROUP, sizeof(*event), true);
	if (!event)
		return 0;
	__builtin_memset(&event->head, 0, sizeof(event->head));
	fill(&event->head, KIND_CGROUP, sizeof(*event));
	event->head.cgroup_id = BPF_CORE_READ(cgroup, kn, id);
	event->path[0] = 0;
	bpf_probe_read_kernel_str(event->path, CGROUP_PATH_BYTES, path);
	submit(event);
	return 0;
}

/* ---- TCP */

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define TCP_CLOSE 7
#define TCP_LISTEN 10
#define SOCK_DONE 1

static __always_inline __u64 cgroup_of_socket(struct sock *sk)
{
	if (bpf_core_field_exists(sk->sk_cgrp_data.cgroup))
		return BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id);

	struct sock_cgroup_data___old *old = (void *)&sk->sk_cgrp_data;
	__u64 value = BPF_CORE_READ(old, val);

	if (value & 1)
		return 0;
	return BPF_CORE_READ((struct cgroup *)value, kn, id);
}

static __always_inline void addresses(struct sock *sk, struct connection *connection)
{
	struct sock_common *common = &sk->__sk_common;

	connection->family = BPF_CORE_READ(common, skc_family);
	connection->local_port = BPF_CORE_READ(common, skc_num);
	connection->peer_port = __builtin_bswap16(BPF_CORE_READ(common, skc_dport));
	if (connection->family == AF_INET) {
		BPF_CORE_READ_INTO((__u32 *)connection->local, common, skc_rcv_saddr);
		BPF_CORE_READ_INTO((__u32 *)connection->peer, common, skc_daddr);
	} else {
		BPF_CORE_READ_INTO(&connection->local, common, skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&connection->peer, common, skc_v6_daddr);
	}
}

static __always_inline bool is_excluded(__u32 netns, __u16 port)
{
	struct port_key key = { .netns = netns, .port = port };

	return bpf_map_lookup_elem(&excluded_ports, &key) != NULL;
}

static __always_inline void report(struct connection *connection, __u32 kind, __u64 duration_ns, __u32 error,
				   __u64 sent, __u64 received)
{
	struct tcp_event *event = reserve(kind, sizeof(*event), false);

	if (!event)
		return;
	fill(&event->head, kind, sizeof(*event));
	event->head.pid = connection->pid;
	event->head.parent_pid = 0;
	event->head.uid = connection->uid;
	event->head.cgroup_id = connection->cgroup_id;
	__builtin_memcpy(event->head.comm, connection->comm, COMM_BYTES);
	event->family = connection->family;
	event->local_port = connection->local_port;
	event->peer_port = connection->peer_port;
	event->accepted = connection->accepted;
	event->padding = 0;
	event->netns = connection->netns;
	event->error = error;
	__builtin_memcpy(event->local, connection->local, ADDRESS_BYTES);
	__builtin_memcpy(event->peer, connection->peer, ADDRESS_BYTES);
	event->duration_ns = duration_ns;
	event->sent_bytes = sent;
	event->received_bytes = received;
	submit(event);
}

static __always_inline void track(__u64 key, struct connection *connection)
{
	if (bpf_map_update_elem(&connections, &key, connection, BPF_ANY))
		count(COLUMN_UNTRACKED);
}

/* In the context of the process that connects: here, and nowhere later, "current" is right. */
static __always_inline void connect_started(struct sock *sk, __u64 key)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct connection connection = {};

	if (is_own(task))
		return;
	connection.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	addresses(sk, &connection);
	/* A port of ours in this namespace may be somebody else's on another host, so only what was asked for counts. */
	if (is_excluded(0, connection.peer_port))
		return;
	connection.since_ns = bpf_ktime_get_boot_ns();
	connection.cgroup_id = cgroup_of_socket(sk);
	connection.pid = bpf_get_current_pid_tgid() >> 32;
	connection.uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(connection.comm, COMM_BYTES);
	track(key, &connection);
}

static __always_inline void accepted(struct sock *sk, __u64 key)
{
	struct connection connection = {};

	connection.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	addresses(sk, &connection);
	if (is_excluded(0, connection.local_port) || is_excluded(connection.netns, connection.local_port))
		return;
	connection.since_ns = bpf_ktime_get_boot_ns();
	connection.cgroup_id = cgroup_of_socket(sk);
	connection.accepted = 1;
	connection.established = 1;
	track(key, &connection);
	report(&connection, KIND_ACCEPT, 0, 0, 0, 0);
}

static __always_inline void connected(struct sock *sk, __u64 key)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &key);
	__u64 now = bpf_ktime_get_boot_ns();
	__u64 took;

	if (!connection)
		return;
	took = now - connection->since_ns;
	connection->since_ns = now;
	connection->established = 1;
	addresses(sk, connection);
	report(connection, KIND_CONNECT, took, 0, 0, 0);
}

static __always_inline void closed(struct sock *sk, __u64 key)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, &key);
	struct tcp_sock *tcp = (void *)sk;
	__u64 took, received;
	__u32 error;

	if (!connection)
		return;
	took = bpf_ktime_get_boot_ns() - connection->since_ns;
	error = BPF_CORE_READ(sk, sk_err);
	if (connection->established) {
		/* The peer's end of stream is counted by the kernel as one byte. */
		received = BPF_CORE_READ(tcp, bytes_received);
		if (received && BPF_CORE_READ(sk, __sk_common.skc_flags) & (1 << SOCK_DONE))
			received--;
		report(connection, KIND_CLOSE, took, error,
		       BPF_CORE_READ(tcp, bytes_sent) - BPF_CORE_READ(tcp, bytes_retrans), received);
	} else {
		report(connection, KIND_CONNECT_FAILED, took, error, 0, 0);
	}
	bpf_map_delete_elem(&connections, &key);
}

/* What connects to our own listeners is not worth an event: it is the sum of all the others. */
static __always_inline void listens(struct sock *sk, __u64 key)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct port_key port = {};
	__u32 ours = 1;

	if (!is_own(task))
		return;
	port.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	port.port = BPF_CORE_READ(sk, __sk_common.skc_num);
	if (!bpf_map_update_elem(&own_listeners, &key, &port, BPF_ANY))
		bpf_map_update_elem(&excluded_ports, &port, &ours, BPF_ANY);
}

static __always_inline void listens_no_more(__u64 key)
{
	struct port_key *port = bpf_map_lookup_elem(&own_listeners, &key);

	if (!port)
		return;
	bpf_map_delete_elem(&excluded_ports, port);
	bpf_map_delete_elem(&own_listeners, &key);
}

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(on_tcp, struct sock *sk, int before, int after)
{
	__u64 key = (__u64)sk;

	if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return 0;
	if (after == TCP_SYN_SENT)
		connect_started(sk, key);
	else if (after == TCP_ESTABLISHED && before == TCP_SYN_SENT)
		connected(sk, key);
	else if (after == TCP_ESTABLISHED && before == TCP_SYN_RECV)
		accepted(sk, key);
	else if (after == TCP_LISTEN)
		listens(sk, key);
	else if (after == TCP_CLOSE && before == TCP_LISTEN)
		listens_no_more(key);
	else if (after == TCP_CLOSE)
		closed(sk, key);
	return 0;
}
