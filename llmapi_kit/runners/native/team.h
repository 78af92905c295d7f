/* A team of threads that goes through a step together: loops whose rounds they share, and a barrier after each.

   Not OpenMP, because its threads wait by spinning for milliseconds: on few cores they then keep the thread that they
   wait for from running. These spin for some microseconds and sleep. The thread that calls `team_run` is the first. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define SPINS 2000

typedef struct Team Team;
typedef void (*Task)(Team *team, int index, void *arguments);

struct Team {
    atomic_long next;     /* of the loop that is being shared */
    atomic_int num_arrived;
    atomic_int phase;     /* counts barriers */
    atomic_int run;       /* counts tasks; the workers' signal to start */
    atomic_int is_over;
    int size;             /* threads, the caller included */
    int num_active;       /* of the current task */
    Task task;
    void *arguments;
    pthread_mutex_t lock; /* only for sleeping */
    pthread_cond_t changed;
    pthread_t threads[];
};

/* Shares the rounds i = 0 ... n - 1 of a loop, `chunk` at a time; to be followed by `barrier`. */
#define SHARED(team, i, n, chunk)                                                                       \
    for (long i##_at, i##_n = (n); (i##_at = atomic_fetch_add(&(team)->next, (chunk))) < i##_n;)        \
        for (long i = i##_at; i < (i##_at + (chunk) < i##_n ? i##_at + (chunk) : i##_n); i++)

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void wait_while(Team *team, atomic_int *word, int value) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load(word) != value) return;
        pause_briefly();
    }
    pthread_mutex_lock(&team->lock);
    while (atomic_load(word) == value) pthread_cond_wait(&team->changed, &team->lock);
    pthread_mutex_unlock(&team->lock);
}

static void advance(Team *team, atomic_int *word) {
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add(word, 1);
    pthread_cond_broadcast(&team->changed);
    pthread_mutex_unlock(&team->lock);
}

static void barrier(Team *team) {
    if (team->num_active == 1) {
        atomic_store(&team->next, 0);
        return;
    }
    const int phase = atomic_load(&team->phase);
    if (atomic_fetch_add(&team->num_arrived, 1) + 1 < team->num_active) {
        wait_while(team, &team->phase, phase);
        return;
    }
    atomic_store(&team->num_arrived, 0);
    atomic_store(&team->next, 0);
    advance(team, &team->phase);
}

typedef struct {
    Team *team;
    int index;
} Seat;

static void *work_along(void *argument) {
    const Seat seat = *(Seat *)argument;
    Team *team = seat.team;
    free(argument);
    for (int seen = 0;; seen++) {
        wait_while(team, &team->run, seen);
        if (atomic_load(&team->is_over)) return NULL;
        team->task(team, seat.index, team->arguments);
    }
}

/* Runs a task on the first `num_active` threads: one, or all. Every task ends with a barrier. */
static void team_run(Team *team, int num_active, Task task, void *arguments) {
    team->num_active = num_active < team->size ? 1 : team->size;
    team->task = task;
    team->arguments = arguments;
    if (team->num_active > 1) advance(team, &team->run);
    task(team, 0, arguments);
}

/* Starts a team; NULL where memory or threads run out. */
Team *team_start(int64_t size) {
    Team *team = calloc(1, sizeof(Team) + size * sizeof(pthread_t));
    if (!team) return NULL;
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->changed, NULL);
    for (team->size = 1; team->size < size; team->size++) {
        Seat *seat = malloc(sizeof(Seat));
        if (seat) *seat = (Seat){team, team->size};
        if (!seat || pthread_create(&team->threads[team->size], NULL, work_along, seat)) {
            free(seat);
            break;
        }
    }
    return team;
}

/* Ends the threads; the team is gone after it. */
void team_stop(Team *team) {
    atomic_store(&team->is_over, 1);
    advance(team, &team->run);
    for (int i = 1; i < team->size; i++) pthread_join(team->threads[i], NULL);
    free(team);
}
