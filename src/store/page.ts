export interface PageRequest {
  readonly limit: number
  /** From a previous page's `next`; opaque. */
  readonly after: string | null
}
