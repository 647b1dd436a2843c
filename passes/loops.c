/* The loops in which planning spends its time. The Python beside their callers does the same operations in the
   same order, so both give the same bits; compiled without contraction of products and sums. */

#include <stddef.h>
#include <stdint.h>

/* TimeModel.run: `clock` holds now and free. */
void occ_run(int64_t segments, const double *seconds, const int64_t *submitted, const int64_t *awaited,
             const double *reads, const double *lags, double slowdown, double response,
             double *starts, double *stops, double *begins, double *ends, double *clock)
{
    double now = clock[0], free = clock[1];
    int64_t k = 0;
    for (int64_t s = 0; s < segments; s++) {
        for (; k < submitted[s]; k++) {
            if (free < now)
                free = now;
            begins[k] = free;
            free += reads[k];
            ends[k] = free;
        }
        if (awaited[s] >= 0) {
            double arrival = ends[awaited[s]];
            arrival += free > arrival ? lags[awaited[s]] : response;
            if (arrival > now)
                now = arrival;
        }
        starts[s] = now;
        double work = seconds[s], busy = free - now;
        if (busy <= 0.0)
            now += work;
        else if (work * slowdown <= busy)
            now += work * slowdown;
        else
            now += work + busy * (1.0 - 1.0 / slowdown);
        stops[s] = now;
    }
    clock[0] = now;
    clock[1] = free;
}

/* _Bucket.residents: what is granted at each row; returns what is saved up in the end. `resident` is zero for
   every tile, and `again` tells rows of a tile that has been seen. */
double occ_grant(int64_t rows, double rate, const double *gaps, const double *reads, const double *limits,
                 const int64_t *tile, const uint8_t *again, uint8_t *resident, double depth, double credit,
                 double *granted)
{
    for (int64_t row = 0; row < rows; row++) {
        credit += rate * gaps[row];
        if (credit > depth)
            credit = depth;
        granted[row] = credit;
        if (again[row] && resident[tile[row]])
            continue;
        if (credit < limits[row])
            resident[tile[row]] = 1;
        else
            credit -= reads[row];
    }
    return credit;
}
