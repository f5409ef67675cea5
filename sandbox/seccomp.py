"""The container's seccomp profile: an allow-list of the system calls that a computing Python needs.

What is not named here answers EPERM: mounting, namespaces, tracing, keys, bpf, io_uring, userfaultfd, perf, kernel
modules, clocks, and every network call that would follow a socket. `socket` itself is allowed on purpose: the
container has no network, and the warden's own filter refuses and counts it for the candidate.
"""

from __future__ import annotations

import json
from typing import Any

_ALLOWED = {
    "files": """access chdir chmod close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
        fadvise64 fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr
        flock fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr ioctl lgetxattr link
        linkat listxattr llistxattr lseek lstat memfd_create mkdir mkdirat mknod mknodat newfstatat open openat
        openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
        rename renameat renameat2 rmdir sendfile stat statfs statx symlink symlinkat sync_file_range
        truncate umask unlink unlinkat utime utimensat utimes write writev""",
    "waiting": """epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2
        inotify_add_watch inotify_init inotify_init1 inotify_rm_watch poll ppoll pselect6 select signalfd signalfd4
        timerfd_create timerfd_gettime timerfd_settime""",
    "memory": """brk get_mempolicy madvise membarrier mincore mlock mlock2 mlockall mmap mprotect mremap msync
        munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect""",
    "processes": """arch_prctl capget execve execveat exit exit_group fork get_robust_list get_thread_area getcpu
        getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit
        getrusage getsid gettid getuid kill landlock_add_rule landlock_create_ruleset landlock_restrict_self prctl
        prlimit64 rseq sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
        sched_getscheduler sched_rr_get_interval sched_setaffinity sched_yield seccomp set_robust_list
        set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setpgid setpriority setregid setresgid
        setresuid setreuid setrlimit setsid setuid sysinfo tgkill times tkill uname vfork wait4 waitid""",
    "signals": """alarm getitimer pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo
        rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo setitimer sigaltstack timer_create
        timer_delete timer_getoverrun timer_gettime timer_settime""",
    "time": "clock_getres clock_gettime clock_nanosleep gettimeofday nanosleep time",
    "threads": "futex futex_requeue futex_wait futex_waitv futex_wake getrandom",
    "pairs of sockets": """getpeername getsockname getsockopt recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto
        setsockopt shutdown socket""",
}

_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS|NEWCGROUP|NEWUTS|NEWIPC|NEWUSER|NEWPID|NEWNET, from include/uapi/linux/sched.h."""
_EPERM, _ENOSYS, _EOPNOTSUPP = 1, 38, 95
_AF_UNIX = 1


def profile() -> dict[str, Any]:
    """Return the profile in the engine's JSON form."""
    names = sorted({name for group in _ALLOWED.values() for name in group.split()})
    no_new_namespace = {"index": 0, "value": _NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [
            {"names": names, "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [no_new_namespace]},
            {
                "names": ["socketpair"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": _AF_UNIX, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
            },
            # Told that it cannot be reserved, libc fills the file, and a disk that is full is seen to be full.
            {"names": ["fallocate"], "action": "SCMP_ACT_ERRNO", "errnoRet": _EOPNOTSUPP},
            # Its flags lie behind a pointer where no filter can look; told that it is missing, libc uses clone.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        ],
    }


def profile_json() -> str:
    """Return the profile as the one line that the engine is given and asked for again."""
    return json.dumps(profile(), sort_keys=True, separators=(",", ":"))
