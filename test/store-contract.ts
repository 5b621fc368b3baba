import type { Test } from 'tap'
import { accepting } from './store-contract/accept.ts'
import { applying } from './store-contract/apply.ts'
import { reading } from './store-contract/read.ts'
import { following } from './store-contract/follow.ts'
import { listing } from './store-contract/list.ts'
import { watching } from './store-contract/watch.ts'
import { sharing } from './store-contract/share.ts'
import { delivering } from './store-contract/deliver.ts'
import { breaking } from './store-contract/circuit.ts'
import { keepingKeys } from './store-contract/keys.ts'
import { limiting } from './store-contract/limits.ts'
import type { OpenStore } from './store-contract/jobs.ts'

/** What every adapter of the store is held to: the promises in src/store/store.ts. */
export function storeContract(t: Test, openStore: OpenStore): void {
  accepting(t, openStore)
  applying(t, openStore)
  reading(t, openStore)
  following(t, openStore)
  listing(t, openStore)
  watching(t, openStore)
  delivering(t, openStore)
  breaking(t, openStore)
  sharing(t, openStore)
  keepingKeys(t, openStore)
  limiting(t, openStore)
}
