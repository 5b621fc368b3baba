import type { Identity } from './access/identity.ts'
import { demandType } from './access/identity.ts'
import { createAjv, toViolations, type Catalog, type JobType } from './catalog.ts'
import { invalid, type Violation } from './errors.ts'
import { jobRequestSchema, type JobRequest } from './messages.ts'

/** Why a tenant cannot use a `callback_url`, null if it can. */
export type JudgeCallback = (tenant: string, url: string) => Promise<string | null>

/** A request for a job that is as it must be. */
export interface Checked {
  readonly request: JobRequest
  readonly type: JobType
}

/**
 * Judges the parsed JSON of a request: the envelope, the input and the return address together.
 *
 * @throws Problem `type_not_allowed`; `invalid` with every violation
 */
export type CheckRequest = (
  identity: Pick<Identity, 'tenant' | 'types'>,
  body: unknown,
  judgeCallback: JudgeCallback,
) => Promise<Checked>

export function createCheckRequest(catalog: Catalog): CheckRequest {
  const validate = createAjv().compile<JobRequest>(jobRequestSchema)

  return async (identity, body, judgeCallback) => {
    const violations: Violation[] = validate(body) ? [] : toViolations(validate.errors ?? [])
    const {
      type: name,
      input = null,
      callback_url: url,
      delay_ms,
      deadline_ms,
    } = (body ?? {}) as Partial<JobRequest>
    if (typeof name === 'string') demandType(identity, name)
    const type = typeof name === 'string' ? catalog.types.get(name) : undefined
    if (type) {
      violations.push(
        ...type.violations(input).map(({ path, message }) => ({ path: `/input${path}`, message })),
      )
    } else if (typeof name === 'string') {
      violations.push({ path: '/type', message: `must be one of ${[...catalog.types.keys()].join(', ')}` })
    }
    const areTimes = !violations.some(({ path }) => path === '/delay_ms' || path === '/deadline_ms')
    if (areTimes && deadline_ms !== undefined && deadline_ms <= (delay_ms ?? 0)) {
      violations.push({ path: '/deadline_ms', message: 'must be longer than delay_ms' })
    }
    if (typeof url === 'string') {
      const reason = await judgeCallback(identity.tenant, url)
      if (reason !== null) violations.push({ path: '/callback_url', message: reason })
    }
    if (violations.length > 0 || !type) throw invalid(violations)
    return { request: body as JobRequest, type }
  }
}
