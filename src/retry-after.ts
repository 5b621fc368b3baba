/**
 * Reads a `Retry-After`: seconds, or any of the three date forms (RFC 9110 sections 10.2.3 and 5.6.7).
 *
 * @param now what a date is counted from, in ms since the epoch
 * @returns ms from `now`, never negative; undefined without one that can be read
 */
export function parseRetryAfter(value: string | string[] | undefined, now: number): number | undefined {
  if (typeof value !== 'string') return undefined
  if (/^\d{1,9}$/.test(value)) return Number(value) * 1_000
  // Date.parse alone takes almost anything, and the oldest form, which has no zone, for local time.
  if (!/^(Mon|Tue|Wed|Thu|Fri|Sat|Sun)/.test(value)) return undefined
  const date = Date.parse(value.endsWith(' GMT') ? value : `${value} GMT`)
  return Number.isNaN(date) ? undefined : Math.max(0, date - now)
}
