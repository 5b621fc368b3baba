import { Job, Worker, type RedisQueueBackend } from 'bullmq'

/** A BullMQ job whose data and result are the JSON text that they are (invariant 9). */
export class TextJob extends Job<string, string> {
  static override fromJSON<T, R, N extends string>(
    ...[queue, json, id]: Parameters<typeof Job.fromJSON>
  ): Job<T, R, N> {
    const job = super.fromJSON<T, R, N>(queue, { ...json, data: '' }, id)
    job.data = json.data as T
    return job
  }

  /** As BullMQ's own, but for the result, which is serialised already. */
  override async moveToCompleted(
    result: string,
    token: string,
    fetchNext = true,
  ): ReturnType<Job['moveToCompleted']> {
    const backend = this.backend as RedisQueueBackend
    const args = backend.moveToCompletedArgs(
      this,
      result,
      this.opts.removeOnComplete ?? false,
      token,
      fetchNext,
    )
    const next = await backend.moveToFinished(this.id ?? '', args)
    this.finishedOn = Date.now()
    this.attemptsMade += 1
    return next
  }
}

/** A BullMQ worker whose processor is given JSON text and returns JSON text. */
export class TextWorker extends Worker<string, string> {
  // BullMQ creates jobs through this getter, "helper to easily extend Job class calls".
  override get Job(): typeof Job {
    return TextJob as typeof Job
  }
}
