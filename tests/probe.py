import pytest, shlex
from pathlib import Path
ROWS = """
optim.lr=1e30 model=mlp model.norm=none
optim.lr=1e30 model=mlp model.norm=none optim=sgd
hydra.run.dir=/proc/x
monitor.metric=val/los callbacks.early_stopping=null
trainer.max_epochs=-1 trainer.max_steps=10
trainer.max_epochs=-1 +trainer.max_time=00:00:00:01
trainer.max_epochs=0
trainer.max_steps=0
data.fold=7 data.folds=5
name=a/b
name=../x
seed=-1
seed=1e3
seed=99999999999999999999999
data.eval_batch_size=0
trainer.log_every_n_steps=0
trainer.check_val_every_n_epoch=2
trainer.check_val_every_n_epoch=0
data.val_fraction=1e-9
data.split_seed=-1
optim.betas=[0.9]
optim.betas=[0.9,2]
-m
run=last
resume=
weights=.
callbacks=null
callbacks=null data.val_fraction=0
data.val_fraction=0 callbacks.early_stopping=null
logger=null
metrics=null
trainer=null
optim=null
experiment=[mnist_cnn]
data.limit=1
data.limit=20 data.batch_size=4
trainer=ddp
trainer=ddp trainer.accelerator=cpu trainer.devices=3
trainer=mps
model=cnn model.norm=layer model.activation=maxout
model.activation=[relu,tanh]
model=mlp model.activation=[relu,tanh,relu]
model=mlp model.residual=true
trainer.gradient_clip_val=x
trainer.accumulate_grad_batches=0
trainer.accumulate_grad_batches=3
trainer.max_steps=7
data.augment=null
data.augment.rotate=x
callbacks.progress=null
callbacks.checkpoints=null
callbacks.lr_monitor=null
debug=profile
debug=anomaly
debug=limit
debug=fast
monitor=null
data.preprocess=null
scheduler.unit=weeks scheduler=cosine
scheduler=step scheduler.every=0
model.widths=[]
model.widths=[a,b]
+callbacks.mine=3
callbacks.progress.refresh_seconds=x
model=torchvision model.name=inception_v3
model=torchvision model.weights=NONE
data.batch_size=null
-m optim.lr=fast,0.1 model=linear
""".strip().splitlines()

@pytest.mark.parametrize("row", ROWS)
def test_row(row, train, tmp_path, monkeypatch):
    (tmp_path/"corrupt.ckpt").write_bytes(b"abc")
    r = train(*shlex.split(row), *([] if "trainer.max_epochs" in row or "sede" in row else ["trainer.max_epochs=1"]))
    n = len([l for l in r.err.splitlines() if l.strip()])
    flag = "" if r.code and n <= 2 and "Traceback" not in r.err + r.out else "!!!!"
    with open("/tmp/probe.txt", "a") as f:
        f.write(f"{flag}{row}\n   code {r.code}\n" + "".join(f"   E| {l}\n" for l in r.err.splitlines()) + "".join(f"   O| {l}\n" for l in r.out.splitlines()[-4:]))
